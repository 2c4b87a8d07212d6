"""A plain grpcio server and a plain stub."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.peers.process import started
from benchmarks.serving.way import Call, Picture, Running
from benchmarks.serving.workload import Workload


class Plain:
    """The server that anyone would write, `plain_server.py`, in this environment."""

    name = "plain"
    title = "plain grpcio server, 10 threads"
    python = Path(sys.executable)

    def missing(self) -> str:
        """Nothing: it is here."""
        return ""

    def serves(self, workload: Workload) -> bool:
        """All of them."""
        return True

    @contextmanager
    def start(self, repo: Path, workload: Workload) -> Iterator[Running]:
        """The server in a process of its own, ready; ended on exit."""
        module = "benchmarks.serving.peers.plain_server"
        command = [str(self.python), "-m", module, str(repo.resolve() / workload.model)]
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"

            def port() -> str:
                lines = log.read_text(errors="replace").splitlines()
                return next((line for line in lines if line.isdigit()), "")

            with started(command, ready=lambda: bool(port()), log=log) as pids:
                yield Running(f"127.0.0.1:{port()}", pids, "onnxruntime's default threads")

    @contextmanager
    def caller(self, address: str, workload: Workload) -> Iterator[Call]:
        """One channel and one stub, shared by all threads."""
        import grpc

        from vitral.limits import MAX_MESSAGE_BYTES
        from vitral.v1 import embedding_service_pb2 as pb
        from vitral.v1 import embedding_service_pb2_grpc as rpc
        from vitral.v1 import tensor_pb2

        view = pb.TOKEN_VIEW_CLS if workload.view == "cls" else pb.TOKEN_VIEW_UNSPECIFIED
        dtype = tensor_pb2.DataType.Value(f"DATA_TYPE_{workload.dtype.upper()}")
        outputs = [pb.OutputRequest(name=workload.output, view=view, dtype=dtype)]

        def call(picture: Picture) -> NDArray[Any]:
            if isinstance(picture, bytes):
                item = pb.Item(encoded=picture)
            else:
                uint8 = tensor_pb2.DATA_TYPE_UINT8
                pixels = tensor_pb2.Tensor(dtype=uint8, shape=picture.shape, data=picture.tobytes())
                item = pb.Item(pixels=pixels)
            reply = stub.Embed(pb.EmbedRequest(model=workload.model, items=[item], outputs=outputs))
            tensor = reply.results[0].outputs[0]
            return np.frombuffer(tensor.data, workload.dtype).reshape(tuple(tensor.shape))

        options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        with grpc.insecure_channel(address, options=options) as channel:
            stub = rpc.EmbeddingServiceStub(channel)
            yield call
