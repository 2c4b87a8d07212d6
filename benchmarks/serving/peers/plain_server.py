"""The server that anyone would write: grpcio's generated classes, Pillow, NumPy, onnxruntime's defaults.

python -m benchmarks.serving.peers.plain_server models/patch-embedding
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime

from benchmarks.serving.peers.picture import Preprocessor, newest
from vitral.limits import MAX_MESSAGE_BYTES
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import embedding_service_pb2_grpc as rpc
from vitral.v1 import tensor_pb2

DTYPES = {tensor_pb2.DATA_TYPE_FLOAT32: np.float32, tensor_pb2.DATA_TYPE_FLOAT16: np.float16}
OPTIONS = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]


class Embeddings(rpc.EmbeddingServiceServicer):
    """One picture a request, embedded in the thread that took it."""

    def __init__(self, version: Path) -> None:
        self.session = onnxruntime.InferenceSession(
            str(version / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        self.preprocessor = Preprocessor.read(version)

    def Embed(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> pb.EmbedResponse:  # noqa: N802
        """Decode, preprocess, run, cast."""
        [item], [output] = request.items, request.outputs
        if item.encoded:
            pixels = self.preprocessor.decode(item.encoded)
        else:
            pixels = np.frombuffer(item.pixels.data, np.uint8).reshape(tuple(item.pixels.shape))
        batch = self.preprocessor.normalise(pixels[np.newaxis])
        [rows] = self.session.run([output.name], {"pixel_values": batch})
        array = rows[0, 0] if output.view == pb.TOKEN_VIEW_CLS else rows[0]
        data = array.astype(DTYPES[output.dtype], copy=False).tobytes()
        tensor = tensor_pb2.Tensor(name=output.name, dtype=output.dtype, shape=array.shape, data=data)
        return pb.EmbedResponse(model=request.model, results=[pb.ItemResult(outputs=[tensor])])


def main() -> None:
    """Serves until it is ended; the port is the first line it prints."""
    server = grpc.server(ThreadPoolExecutor(max_workers=10), options=OPTIONS)
    embeddings = Embeddings(newest(Path(sys.argv[1])))  # type: ignore[abstract]  # the other methods are not called
    rpc.add_EmbeddingServiceServicer_to_server(embeddings, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
