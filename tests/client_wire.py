"""A gRPC server with hand-made replies: the client's wire, without vitral's own server.

It reads requests and writes replies through the generated classes, so that the client's own framing is held
against protobuf's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np

from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import model_pb2, tensor_pb2

TOKENS, WIDTH = 4, 6
F32, F16, BF16 = tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_FLOAT16, tensor_pb2.DATA_TYPE_BFLOAT16


def spec(name: str = "tiny", fingerprint: str = "f" * 64) -> model_pb2.ModelSpec:
    """A model of 2 x 2 patches with two outputs."""
    axes = [("batch", 0), ("token", TOKENS), ("feature", WIDTH)]
    outputs = [
        model_pb2.Output(
            name=output,
            dtype=F32,
            axes=[model_pb2.Axis(name=axis, size=size) for axis, size in axes],
            trained=True,
        )
        for output in ("patch_embeddings", "extra")
    ]
    source = model_pb2.Source(
        kind="patch-embedding",
        weights=model_pb2.WEIGHTS_ORIGIN_RANDOM,
        weights_note="random weights, seed 0",
    )
    return model_pb2.ModelSpec(
        schema=1,
        name=name,
        outputs=outputs,
        default_outputs=["patch_embeddings"],
        fingerprint=fingerprint,
        source=source,
    )


def tokens(item: pb.Item, payloads: list[bytes]) -> np.ndarray:
    """What this server answers for an item: every value tells the bytes that came in."""
    door = item.WhichOneof("content")
    data = item.encoded if door == "encoded" else payloads[getattr(item, door).payload]
    return expected(data)


def expected(data: bytes) -> np.ndarray:
    start = float(len(data) % 97) + float(sum(data[:64]) % 89) / 128
    return (start + np.arange(TOKENS * WIDTH, dtype=np.float32) / 64).reshape(TOKENS, WIDTH)


def raw(array: np.ndarray, dtype: int) -> bytes:
    if dtype == F16:
        return array.astype("<f2").tobytes()
    if dtype == BF16:
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return array.astype("<f4").tobytes()


class Wire:
    """Handlers of a server, which tests change; it counts what comes in."""

    def __init__(self) -> None:
        self.address = ""
        self.paths: list[str] = []
        self.requests: list[pb.EmbedRequest] = []
        self.models = {"tiny": pb.ServedModel(spec=spec(), version="3", state=2, name="tiny")}
        self.health = {"": 1, "tiny": 1}
        self.on_embed: Callable[[pb.EmbedRequest, grpc.ServicerContext], bytes | None] = lambda *_: None

    def handle(self, path: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        self.paths.append(path)
        if path.endswith("/Embed"):
            request = pb.EmbedRequest.FromString(data)
            self.requests.append(request)
            return self.on_embed(request, context) or self.embed(request)
        if path.endswith("/GetModel"):
            return self._get_model(pb.GetModelRequest.FromString(data), context)
        if path.endswith("/ListModels"):
            return pb.ListModelsResponse(models=self.models.values()).SerializeToString()
        return self._check(pb.GetModelRequest.FromString(data).model, context)

    def embed(self, request: pb.EmbedRequest) -> bytes:
        served = self.models[request.model or "tiny"]
        reply = pb.EmbedResponse(
            model=served.name,
            version=served.version,
            fingerprint=served.spec.fingerprint,
            timings=pb.Timings(run_ms=1.5, total_ms=2.5, batch_size=len(request.items)),
        )
        wanted = [(output.name, output.dtype or F32) for output in request.outputs]
        for item in request.items:
            result = reply.results.add()
            if item.encoded == b"bad":
                result.error.code, result.error.reason = 3, "truncated"
                result.error.message = "the file ends after 3 bytes"
                continue
            result.grid.height = result.grid.width = 2
            for name, dtype in wanted or [("patch_embeddings", F32)]:
                array = tokens(item, list(request.payloads))
                result.outputs.add(name=name, dtype=dtype, shape=array.shape, payload=len(reply.payloads))
                reply.payloads.append(raw(array, dtype))
        return reply.SerializeToString()

    def _get_model(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> bytes:
        served = self.models.get(request.model or "tiny")
        if served is None or request.version not in ("", served.version):
            context.set_trailing_metadata((("vitral-error", "model_not_found"),))
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no model {request.model!r}; there is tiny")
        return pb.GetModelResponse(model=served).SerializeToString()

    def _check(self, service: str, context: grpc.ServicerContext) -> bytes:
        if service not in self.health:
            context.abort(grpc.StatusCode.NOT_FOUND, "")
        return b"\x08" + bytes([self.health[service]])

    def watch(self, _: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"\x08" + bytes([self.health[""]])
        left = threading.Event()
        context.add_callback(left.set)
        left.wait(30)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if call.method.endswith("/Watch"):
            return grpc.unary_stream_rpc_method_handler(self.wire.watch)
        return grpc.unary_unary_rpc_method_handler(
            lambda data, context: self.wire.handle(call.method, data, context)
        )


@contextmanager
def serve(wire: Wire, port: int = 0) -> Iterator[Wire]:
    """Runs it on a free port of the loopback interface."""
    size = [("grpc.max_receive_message_length", 80 << 20), ("grpc.max_send_message_length", 80 << 20)]
    server = grpc.server(ThreadPoolExecutor(16), options=size)
    server.add_generic_rpc_handlers((_Handlers(wire),))
    wire.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield wire
    finally:
        server.stop(None).wait()
