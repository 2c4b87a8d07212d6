"""The EmbeddingService over the wire: every method unpacks, calls once and packs.

Embed passes bytes through untouched: its requests are read and its replies framed by `vitral.framing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial, wraps
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio

from vitral.errors import InvalidArgumentError, VitralError, trailers
from vitral.v1 import embedding_service_pb2 as pb
from vitral_server import describe
from vitral_server.admission import Admission, Permit
from vitral_server.config import ServerConfig
from vitral_server.embed import Embedder
from vitral_server.embed_stream import Items
from vitral_server.health import UNPROVEN
from vitral_server.log import RequestLine, explained, request_line
from vitral_server.regions import Regions
from vitral_server.registry import Registry
from vitral_server.request import parse, parse_config
from vitral_server.stream import Stream
from vitral_server.telemetry import OFF, Telemetry

NAME = "vitral.v1.EmbeddingService"
"""Full name of the service."""

Context = aio.ServicerContext[Any, Any]
_Method = Callable[[Any, bytes, Context], Awaitable[bytes]]
_Logged = Callable[[Any, bytes, Context, RequestLine], Awaitable[bytes]]
_StreamMethod = Callable[[Any, AsyncIterator[bytes], Context], Awaitable[None]]
_LoggedStream = Callable[[Any, AsyncIterator[bytes], Context, RequestLine], Awaitable[None]]
_Message = TypeVar("_Message", bound=Message)

_TEXT_BYTES = 4_000
"""Room for an error's text in the trailers, percent-encoded; gRPC cuts a call off at about 16 KB of them."""


def answers(method: _Logged) -> _Method:
    """Notes each call, in the log and in telemetry, and turns errors into status.

    vitral's own errors have theirs by the table; unknown ones become INTERNAL with an id.
    """

    @wraps(method)
    async def answer(self: Any, message: bytes, context: Context) -> bytes:
        try:
            with request_line(method.__name__, self.telemetry, context) as line:
                return await method(self, message, context, line)
        except Exception as error:
            failure = explained(error)
        return await refuse(context, failure)

    return answer


def answers_stream(method: _LoggedStream) -> _StreamMethod:
    """The same for a stream."""

    @wraps(method)
    async def answer(self: Any, requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            with request_line(method.__name__, self.telemetry, context) as line:
                await method(self, requests, context, line)
                return
        except Exception as error:
            failure = explained(error)
        await refuse(context, failure)

    return answer


class EmbeddingService:
    """The methods.

    Attributes:
        telemetry: what is noted of each call.
    """

    def __init__(
        self,
        registry: Registry,
        embedder: Embedder,
        admission: Admission,
        config: ServerConfig,
        regions: Regions,
        telemetry: Telemetry = OFF,
    ) -> None:
        self._registry, self._embedder, self._admission = registry, embedder, admission
        self._config, self._regions = config, regions
        self.telemetry = telemetry

    @answers
    async def embed(self, message: bytes, context: Context, line: RequestLine) -> bytes:
        """Embed."""
        permit = accept(self._admission, context)
        memory = partial(self._regions.find, peer=context.peer())
        call = parse(message, max_items=self._config.max_items, memory=memory)
        seconds = self._seconds(context)
        served, frame = await self._embedder.embed(call, permit=permit, seconds=seconds, line=line)
        line.answered(served, call, frame)
        if served.unproven:
            context.set_trailing_metadata(UNPROVEN)
        return frame.message

    @answers_stream
    async def embed_stream(self, requests: AsyncIterator[bytes], context: Context, line: RequestLine) -> None:
        """EmbedStream."""
        source = aiter(requests)
        first = await anext(source, None)
        if first is None:
            raise InvalidArgumentError("the stream ended before its configuration came")
        template, ordered = parse_config(first)
        items = Items(
            self._embedder,
            self._registry,
            template,
            memory=partial(self._regions.find, peer=context.peer()),
            seconds=partial(self._seconds, context),
            noting=partial(request_line, "embed_item", self.telemetry, context),
        )
        if items.unproven:
            context.set_trailing_metadata(UNPROVEN)
        await context.send_initial_metadata(())  # says that the configuration is taken
        try:
            await Stream(self._admission, context, ordered=ordered).serve(source, items.accept)
        finally:
            line.fields |= {"items": items.accepted, "failed": items.failed}

    @answers
    async def list_models(self, message: bytes, context: Context, line: RequestLine) -> bytes:
        """ListModels."""
        read(pb.ListModelsRequest, message)
        found = self._registry.models
        return pb.ListModelsResponse(models=map(describe.model, found)).SerializeToString()

    @answers
    async def get_model(self, message: bytes, context: Context, line: RequestLine) -> bytes:
        """GetModel."""
        request = read(pb.GetModelRequest, message)
        found = self._registry.find(request.model, request.version)
        return pb.GetModelResponse(model=describe.model(found)).SerializeToString()

    @answers
    async def get_server_info(self, message: bytes, context: Context, line: RequestLine) -> bytes:
        """GetServerInfo."""
        read(pb.GetServerInfoRequest, message)
        return describe.server(self._config).SerializeToString()

    @answers
    async def register_region(self, message: bytes, context: Context, line: RequestLine) -> bytes:
        """RegisterRegion."""
        request = read(pb.RegisterRegionRequest, message)
        region = self._regions.register(request, peer=context.peer())
        return pb.RegisterRegionResponse(region=region).SerializeToString()

    @answers
    async def unregister_region(self, message: bytes, context: Context, line: RequestLine) -> bytes:
        """UnregisterRegion."""
        self._regions.unregister(read(pb.UnregisterRegionRequest, message).region)
        return pb.UnregisterRegionResponse().SerializeToString()

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods under their names. All take and give bytes: a malformed message is ours to answer."""
        plain = grpc.unary_unary_rpc_method_handler
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Embed": plain(self.embed),
            "EmbedStream": grpc.stream_stream_rpc_method_handler(self.embed_stream),
            "ListModels": plain(self.list_models),
            "GetModel": plain(self.get_model),
            "GetServerInfo": plain(self.get_server_info),
            "RegisterRegion": plain(self.register_region),
            "UnregisterRegion": plain(self.unregister_region),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    def _seconds(self, context: Context) -> float:
        """Seconds left of the caller's own deadline, which is the queue's deadline too."""
        left = context.time_remaining()
        return self._config.timeout if left is None else max(0.0, left)


def accept(admission: Admission, context: Context) -> Permit:
    """Counts the call until its reply has gone out, however it ends.

    Raises:
        UnavailableError: the server is draining.
    """
    permit = admission.arrive()

    def done(_: Any) -> None:
        permit.end()
        admission.leave()

    context.add_done_callback(done)  # type: ignore[arg-type]  # the stubs want a class
    return permit


def read(kind: type[_Message], message: bytes) -> _Message:
    """The message in these bytes.

    Raises:
        InvalidArgumentError: they are malformed.
    """
    try:
        return kind.FromString(message)
    except DecodeError:
        raise InvalidArgumentError(f"malformed {kind.__name__} of {len(message)} bytes") from None


async def refuse(context: Context, error: VitralError) -> bytes:
    """Ends a call with the error's status.

    By `abort`, since a status that is only set goes out behind an empty message, and no client repeats a call
    of whose reply a message has come. grpc keeps what `abort` raises, and a traceback the whole request.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        await context.abort(error.code, _cut(str(error)), trailers(error))
    except aio.AbortError as raised:
        raised.__traceback__ = raised.__context__ = None
    return b""


def _cut(text: str) -> str:
    """The text as far as it fits the trailers, where a byte outside ASCII takes three."""
    room = _TEXT_BYTES
    for index, letter in enumerate(text):
        room -= 1 if " " <= letter <= "~" and letter != "%" else 3 * len(letter.encode(errors="replace"))
        if room < 0:
            return text[:index] + "..."
    return text
