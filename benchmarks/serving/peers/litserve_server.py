"""A LitServe server: the picture is the body of the request, the tensor's bytes that of the reply.

python -m benchmarks.serving.peers.litserve_server models/patch-embedding --workload W2 --port 8000
"""
# FastAPI reads the annotations below as they are: they cannot be strings here.

import argparse
from pathlib import Path
from typing import Annotated, Any

import litserve
import numpy as np
import onnxruntime
from fastapi import Body, Response

from benchmarks.serving.peers.picture import Preprocessor, newest
from benchmarks.serving.workload import WORKLOADS, Workload

BINARY = "application/octet-stream"


class Embeddings(litserve.LitAPI):  # type: ignore[misc]
    """One picture a request; each worker is a process with a session of its own."""

    def __init__(self, version: Path, workload: Workload, threads: int) -> None:
        super().__init__()
        self.version, self.workload, self.threads = version, workload, threads

    def setup(self, device: str) -> None:
        """Opens the graph."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        self.session = onnxruntime.InferenceSession(
            str(self.version / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.preprocessor = Preprocessor.read(self.version)

    def decode_request(self, request: Annotated[bytes, Body(media_type=BINARY)]) -> Any:
        """The model's input."""
        if self.workload.door == "encoded":
            pixels = self.preprocessor.decode(request)
        else:
            pixels = np.frombuffer(request, np.uint8).reshape(*self.workload.pictures, 3)
        return self.preprocessor.normalise(pixels[np.newaxis])

    def predict(self, x: Any) -> Any:
        """The workload's output, without the batch axis."""
        [rows] = self.session.run([self.workload.output], {"pixel_values": x})
        return rows[0, 0] if self.workload.view == "cls" else rows[0]

    def encode_response(self, output: Any) -> Response:
        """Its bytes in the wanted element type, and its shape in a header."""
        array = output.astype(self.workload.dtype, copy=False)
        shape = ",".join(map(str, array.shape))
        return Response(array.tobytes(), media_type=BINARY, headers={"shape": shape})


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--fast-queue", action="store_true")
    args = parser.parse_args()
    api = Embeddings(newest(args.model), WORKLOADS[args.workload], args.threads)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=args.workers, fast_queue=args.fast_queue
    )
    server.run(host="127.0.0.1", port=args.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
