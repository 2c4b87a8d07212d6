"""From the bytes of an EmbedRequest to an `EmbedCall`. Tensor bytes stay views of the message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from vitral import framing, output_request, tensors
from vitral.errors import ImageError, InvalidArgumentError, RegionError
from vitral.limits import MAX_REPLY_BYTES
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_server.call import Door, EmbedCall, Picture, Shared, Wanted

Memory: TypeAlias = Callable[[tensor_pb2.SharedRange], Shared]
"""The range of shared memory that a caller names."""

_MAX_OUTPUTS = 64


def parse(message: bytes, *, max_items: int, memory: Memory) -> EmbedCall:
    """Reads a request. What it costs is bounded by the limits, not by what the message claims.

    Raises:
        InvalidArgumentError: it is malformed or empty.
        RegionError: it names shared memory that is not the caller's to name.
    """
    # An item has at most one payload; the few other fields may stand there once.
    header, payloads = framing.split(message, max_fields=2 * max_items + _MAX_OUTPUTS + 16)
    try:
        request = pb.EmbedRequest.FromString(header)
    except DecodeError:
        raise InvalidArgumentError(f"malformed EmbedRequest of {len(message)} bytes") from None
    if not request.items:
        raise InvalidArgumentError("the request has no items")
    if len(request.items) > max_items:
        raise InvalidArgumentError(f"the request has {len(request.items)} images; the limit is {max_items}")
    pictures = tuple(_picture(item, payloads, memory) for item in request.items)
    return EmbedCall(
        model=request.model,
        version=request.version,
        pictures=pictures,
        outputs=_outputs(request.outputs),
        size=(request.size.height, request.size.width) if request.HasField("size") else None,
        max_reply_bytes=min(request.max_reply_bytes or MAX_REPLY_BYTES, MAX_REPLY_BYTES),
        fingerprint=request.expect_fingerprint,
        request_bytes=len(message) + sum(_shared_bytes(item) for item in request.items),
        reply=memory(request.reply) if request.HasField("reply") else None,
    )


@dataclass(frozen=True)
class StreamItem:
    """One item of a stream, under the caller's number, what its message takes, and where outputs go."""

    number: int
    picture: Picture
    bytes: int
    reply: Shared | None = None


def parse_config(message: bytes) -> tuple[EmbedCall, bool]:
    """The first message of a stream: a call that has no pictures yet, and whether replies keep the order.

    Raises:
        InvalidArgumentError: it is malformed, or no configuration.
    """
    request, _ = _stream_request(message)
    if request.WhichOneof("message") != "config":
        raise InvalidArgumentError("the first message of a stream is its configuration; this one has none")
    config = request.config
    call = EmbedCall(
        model=config.model,
        version=config.version,
        pictures=(),
        outputs=_outputs(config.outputs),
        size=(config.size.height, config.size.width) if config.HasField("size") else None,
        max_reply_bytes=MAX_REPLY_BYTES,
        fingerprint=config.expect_fingerprint,
        request_bytes=0,
    )
    return call, config.order == pb.STREAM_ORDER_IN_ORDER


def parse_item(message: bytes, *, memory: Memory) -> StreamItem:
    """Reads any later message of a stream.

    Raises:
        InvalidArgumentError: it is malformed, or another configuration.
    """
    request, payloads = _stream_request(message)
    if request.WhichOneof("message") == "config":
        raise InvalidArgumentError("a stream has one configuration, its first message; another one came")
    reply = None
    try:
        picture = _picture(request.item, payloads, memory)
        reply = memory(request.reply) if request.HasField("reply") else None
    except RegionError as error:
        picture = Picture(Door.ENCODED, ImageError(str(error), cause=error.reason))
    return StreamItem(request.id, picture, len(message) + _shared_bytes(request.item), reply)


def _stream_request(message: bytes) -> tuple[pb.EmbedStreamRequest, list[memoryview]]:
    header, payloads = framing.split(message, max_fields=16)
    try:
        return pb.EmbedStreamRequest.FromString(header), payloads
    except DecodeError:
        raise InvalidArgumentError(f"malformed EmbedStreamRequest of {len(message)} bytes") from None


def _outputs(requests: Sequence[pb.OutputRequest]) -> tuple[Wanted, ...]:
    if len(requests) > _MAX_OUTPUTS:
        raise InvalidArgumentError(f"the request names {len(requests)} outputs; the limit is {_MAX_OUTPUTS}")
    return tuple(Wanted(item.name, output_request.read(item)) for item in requests)


def _picture(item: pb.Item, payloads: Sequence[memoryview], memory: Memory) -> Picture:
    door = item.WhichOneof("content")
    if door == "encoded":
        return Picture(Door.ENCODED, item.encoded)
    if door is None:
        return Picture(Door.ENCODED, ImageError("the item has no content", cause="empty"))
    tensor = item.pixels if door == "pixels" else item.prepared
    try:
        data = _bytes(tensor, payloads, memory)
        return Picture(Door(door), tensors.view(data, tensor.dtype, tensor.shape, what=door))
    except InvalidArgumentError as error:
        return Picture(Door(door), ImageError(str(error), cause="tensor"))


def _shared_bytes(item: pb.Item) -> int:
    return item.pixels.shared.size + item.prepared.shared.size  # unset ones are 0


def _bytes(tensor: tensor_pb2.Tensor, payloads: Sequence[memoryview], memory: Memory) -> bytes | memoryview:
    location = tensor.WhichOneof("location")
    if location == "shared":
        # The caller may change it at any time, which harms nobody's answer but its own.
        return memory(tensor.shared).memory.data.toreadonly()
    if location == "data":
        return tensor.data
    if location is None:
        raise InvalidArgumentError("the tensor names no bytes: neither data nor payload is set")
    if tensor.payload >= len(payloads):
        raise InvalidArgumentError(f"the tensor names payload {tensor.payload}, but {len(payloads)} came")
    return payloads[tensor.payload]
