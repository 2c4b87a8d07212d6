"""The EmbeddingService over the wire: every method unpacks, calls once and packs.

Embed passes bytes through untouched: its requests are read and its replies framed by `vitral.framing`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import Any, NoReturn, TypeVar
from uuid import uuid4

import grpc
from grpc import aio

from vitral.errors import ServerError, UnsupportedError, VitralError, trailers
from vitral.v1 import embedding_service_pb2 as pb
from vitral_server import describe
from vitral_server.admission import Admission
from vitral_server.config import ServerConfig
from vitral_server.embed import Embedder
from vitral_server.log import RequestLine, request_line
from vitral_server.registry import Registry
from vitral_server.request import parse

log = logging.getLogger(__name__)

NAME = "vitral.v1.EmbeddingService"
"""Full name of the service."""

Context = aio.ServicerContext[Any, Any]
Reply = TypeVar("Reply")
_Method = Callable[["EmbeddingService", Any, Context], Awaitable[Reply]]
_Logged = Callable[["EmbeddingService", Any, Context, RequestLine], Awaitable[Reply]]


def answers(method: _Logged[Reply]) -> _Method[Reply]:
    """Writes one log line a call, and turns errors into status.

    vitral's own errors have theirs by the table; unknown ones become INTERNAL with an id.
    """

    @wraps(method)
    async def answer(self: EmbeddingService, request: Any, context: Context) -> Reply:
        try:
            with request_line(method.__name__, peer=context.peer()) as line:
                return await method(self, request, context, line)
        except VitralError as error:
            await _abort(context, error)
        except Exception:
            number = uuid4().hex[:12]
            log.exception("internal error", extra={"error_id": number})
            await _abort(
                context, ServerError(f"internal error; the server's log explains it under id {number}")
            )

    return answer


class EmbeddingService:
    """The five methods."""

    def __init__(
        self, registry: Registry, embedder: Embedder, admission: Admission, config: ServerConfig
    ) -> None:
        self._registry, self._embedder, self._admission = registry, embedder, admission
        self._config = config

    @answers
    async def embed(self, message: bytes, context: Context, line: RequestLine) -> bytes:
        """Embed."""
        self._accept(context)
        call = parse(message)
        served, frame = await self._embedder.embed(call, seconds=self._seconds(context))
        line.answered(served, call, frame)
        return frame.message

    async def embed_stream(self, requests: AsyncIterator[Any], context: Context) -> None:
        """EmbedStream."""
        await _abort(context, UnsupportedError("EmbedStream is not served yet; Embed is"))

    @answers
    async def list_models(
        self, request: pb.ListModelsRequest, context: Context, line: RequestLine
    ) -> pb.ListModelsResponse:
        """ListModels."""
        return pb.ListModelsResponse(models=map(describe.model, self._registry.models))

    @answers
    async def get_model(
        self, request: pb.GetModelRequest, context: Context, line: RequestLine
    ) -> pb.GetModelResponse:
        """GetModel."""
        return pb.GetModelResponse(model=describe.model(self._registry.find(request.model, request.version)))

    @answers
    async def get_server_info(
        self, request: pb.GetServerInfoRequest, context: Context, line: RequestLine
    ) -> pb.GetServerInfoResponse:
        """GetServerInfo."""
        return describe.server(self._config)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods under their names, with the serialisers that fit them."""
        methods = {
            "Embed": grpc.unary_unary_rpc_method_handler(self.embed),
            "EmbedStream": grpc.stream_stream_rpc_method_handler(self.embed_stream),
            "ListModels": _plain(self.list_models, pb.ListModelsRequest),
            "GetModel": _plain(self.get_model, pb.GetModelRequest),
            "GetServerInfo": _plain(self.get_server_info, pb.GetServerInfoRequest),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    def _accept(self, context: Context) -> None:
        self._admission.arrive()
        context.add_done_callback(self._left)  # type: ignore[arg-type]  # the stubs want a class

    def _left(self, _: Any) -> None:
        self._admission.leave()

    def _seconds(self, context: Context) -> float:
        """Seconds left of the caller's own deadline, which is the queue's deadline too."""
        left = context.time_remaining()
        return self._config.timeout if left is None else max(0.0, left)


def _plain(method: Any, request: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        method,
        request_deserializer=request.FromString,
        response_serializer=lambda reply: reply.SerializeToString(),
    )


async def _abort(context: Context, error: VitralError) -> NoReturn:
    await context.abort(error.code, str(error)[:2000], trailers(error))
    raise AssertionError("abort returns")
