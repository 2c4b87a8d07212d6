"""`inference.GRPCInferenceService` over the wire: every method unpacks, calls once and packs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from vitral.errors import UnsupportedError
from vitral_server.admission import Admission
from vitral_server.config import ServerConfig
from vitral_server.embed import Embedder
from vitral_server.health import Health
from vitral_server.kserve import describe, statistics, stream
from vitral_server.kserve.catalogue import Catalogue
from vitral_server.kserve.infer import Caller, Inference
from vitral_server.kserve.regions import Regions
from vitral_server.kserve.request import read as read_infer
from vitral_server.kserve.status import RegionNotFoundError
from vitral_server.log import RequestLine
from vitral_server.registry import Registry
from vitral_server.service import Context, accept, answers, answers_stream, read, refuse
from vitral_server.stream import Stream
from vitral_server.telemetry import OFF, Telemetry

_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]

NAME = str(_SERVICE.full_name)
"""Full name of the service."""


class InferenceService:
    """The methods, named as in the protocol. Those that are missing answer UNIMPLEMENTED."""

    def __init__(
        self,
        registry: Registry,
        embedder: Embedder,
        pool: ThreadPoolExecutor,
        admission: Admission,
        config: ServerConfig,
        health: Health,
        telemetry: Telemetry = OFF,
    ) -> None:
        self.telemetry = telemetry
        self._registry, self._admission, self._health = registry, admission, health
        self._catalogue, self._regions = Catalogue(registry), Regions()
        self._statistics = statistics.Statistics()
        self._inference = Inference(self._catalogue, embedder, pool, self._regions, self._statistics, config)

    @answers
    async def ServerLive(self, message: bytes, context: Context, line: RequestLine) -> bytes:  # noqa: N802
        """Whether there is a server."""
        read(pb.ServerLiveRequest, message)
        return _packed(pb.ServerLiveResponse(live=True))

    @answers
    async def ServerReady(self, message: bytes, context: Context, line: RequestLine) -> bytes:  # noqa: N802
        """Whether it serves."""
        read(pb.ServerReadyRequest, message)
        return _packed(pb.ServerReadyResponse(ready=self._registry.ready and not self._health.left))

    @answers
    async def ModelReady(self, message: bytes, context: Context, line: RequestLine) -> bytes:  # noqa: N802
        """Whether a model serves."""
        request = read(pb.ModelReadyRequest, message)
        ready = self._catalogue.is_ready(request.name, request.version) and not self._health.left
        return _packed(pb.ModelReadyResponse(ready=ready))

    @answers
    async def ServerMetadata(self, message: bytes, context: Context, line: RequestLine) -> bytes:  # noqa: N802
        """Name, version, extensions."""
        read(pb.ServerMetadataRequest, message)
        return _packed(describe.server())

    @answers
    async def ModelMetadata(self, message: bytes, context: Context, line: RequestLine) -> bytes:  # noqa: N802
        """Inputs and outputs of a model."""
        request = read(pb.ModelMetadataRequest, message)
        entry, face = self._catalogue.find(request.name, request.version)
        # As Triton has it: who asks of one version is told of that one.
        versions = [entry.version] if request.version else self._catalogue.versions(entry.name)
        return _packed(describe.model(entry, face, versions=versions))

    @answers
    async def ModelConfig(self, message: bytes, context: Context, line: RequestLine) -> bytes:  # noqa: N802
        """Its config.pbtxt as Triton completes it."""
        request = read(pb.ModelConfigRequest, message)
        _, face = self._catalogue.find(request.name, request.version)
        return _packed(pb.ModelConfigResponse(config=face.config))

    @answers
    async def ModelInfer(self, message: bytes, context: Context, line: RequestLine) -> bytes:  # noqa: N802
        """One inference."""
        permit = accept(self._admission, context)
        caller = Caller(context.peer(), context.time_remaining())
        return await self._inference.answer(read_infer(message), permit=permit, caller=caller, line=line)

    @answers_stream
    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[bytes], context: Context, line: RequestLine
    ) -> None:
        """Any number of them."""
        accept = partial(stream.accept, self._inference, self.telemetry, context)
        await Stream(self._admission, context, ordered=True).serve(requests, accept)

    @answers
    async def ModelStatistics(self, message: bytes, context: Context, line: RequestLine) -> bytes:  # noqa: N802
        """Counts and cumulative times."""
        request = read(pb.ModelStatisticsRequest, message)
        entries = self._catalogue.chosen(request.name, request.version)
        return _packed(self._statistics.tell(entries))

    @answers
    async def RepositoryIndex(self, message: bytes, context: Context, line: RequestLine) -> bytes:  # noqa: N802
        """Every model and its state."""
        request = read(pb.RepositoryIndexRequest, message)
        if request.repository_name:
            raise UnsupportedError("'repository_name' specification is not supported")
        return _packed(describe.index(self._catalogue, ready=request.ready))

    @answers
    async def SystemSharedMemoryStatus(  # noqa: N802
        self, message: bytes, context: Context, line: RequestLine
    ) -> bytes:
        """Regions of shared memory."""
        request = read(pb.SystemSharedMemoryStatusRequest, message)
        return _packed(self._regions.status(request.name, peer=context.peer()))

    @answers
    async def SystemSharedMemoryRegister(  # noqa: N802
        self, message: bytes, context: Context, line: RequestLine
    ) -> bytes:
        """One more."""
        self._regions.register(read(pb.SystemSharedMemoryRegisterRequest, message), peer=context.peer())
        return _packed(pb.SystemSharedMemoryRegisterResponse())

    @answers
    async def SystemSharedMemoryUnregister(  # noqa: N802
        self, message: bytes, context: Context, line: RequestLine
    ) -> bytes:
        """One less, or none any more."""
        request = read(pb.SystemSharedMemoryUnregisterRequest, message)
        self._regions.unregister(request.name, peer=context.peer())
        return _packed(pb.SystemSharedMemoryUnregisterResponse())

    @answers
    async def CudaSharedMemoryStatus(  # noqa: N802
        self, message: bytes, context: Context, line: RequestLine
    ) -> bytes:
        """Regions of CUDA shared memory. None can be registered; clients ask all the same."""
        request = read(pb.CudaSharedMemoryStatusRequest, message)
        if request.name:
            raise RegionNotFoundError(f"Unable to find cuda shared memory region: '{request.name}'")
        return _packed(pb.CudaSharedMemoryStatusResponse())

    @answers
    async def CudaSharedMemoryUnregister(  # noqa: N802
        self, message: bytes, context: Context, line: RequestLine
    ) -> bytes:
        """None any more, as before."""
        read(pb.CudaSharedMemoryUnregisterRequest, message)
        return _packed(pb.CudaSharedMemoryUnregisterResponse())

    def handlers(self) -> grpc.GenericRpcHandler:
        """Every method of the service under its name. All take and give bytes."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for name in (method.name for method in _SERVICE.methods):
            if name == "ModelStreamInfer":
                methods[name] = grpc.stream_stream_rpc_method_handler(self.ModelStreamInfer)
            else:
                methods[name] = grpc.unary_unary_rpc_method_handler(getattr(self, name, _missing(name)))
        return grpc.method_handlers_generic_handler(NAME, methods)


def _missing(name: str) -> Callable[[bytes, Context], Coroutine[Any, Any, bytes]]:
    async def answer(_: bytes, context: Context) -> bytes:
        return await refuse(context, UnsupportedError(f"{name} is not served"))

    return answer


def _packed(message: Any) -> bytes:
    return bytes(message.SerializeToString())
