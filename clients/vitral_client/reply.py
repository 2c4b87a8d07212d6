"""The bytes of an EmbedResponse to results: arrays are views of it or of shared memory; nothing is copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from vitral import decode as decodes
from vitral import framing, output_request, tensors
from vitral.errors import ImageError, InvalidArgumentError, ServerError
from vitral.results import Embedding, Timings
from vitral.selection import WHOLE, Selection
from vitral.tensors import Array
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral.v1.model_pb2 import ModelSpec
from vitral_client.memory import Range
from vitral_client.request import Request, Wish

M = TypeVar("M", bound=Message)
H = TypeVar("H", pb.EmbedResponse, pb.EmbedStreamResponse)

Result: TypeAlias = Embedding | ImageError
"""What comes of one image."""


@dataclass(frozen=True)
class Reply(Generic[H]):
    """A reply taken apart.

    Attributes:
        header: everything but the payloads.
        payloads: raw bytes of the tensors, in order.
        range: shared memory that was lent for the outputs; None: none was.
    """

    header: H
    payloads: Sequence[memoryview]
    range: Range | None = None


def message(kind: type[M], data: bytes) -> M:
    """A small reply, one without payloads.

    Raises:
        ServerError: the bytes are no such message.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ServerError(f"the reply of {len(data)} bytes is no {kind.__name__}: {error}") from None


def parse(data: bytes, lent: Range | None = None) -> Reply[pb.EmbedResponse]:
    """Takes a reply apart.

    Raises:
        ServerError: it is no EmbedResponse.
    """
    try:
        header, payloads = framing.split(data)
    except InvalidArgumentError as error:
        raise ServerError(f"the reply of {len(data)} bytes is no EmbedResponse: {error}") from None
    return Reply(message(pb.EmbedResponse, header), payloads, lent)


def results(reply: Reply[pb.EmbedResponse], request: Request, wish: Wish, spec: ModelSpec) -> list[Result]:
    """One entry for each image of the caller, in the caller's order.

    Raises:
        ServerError: the reply does not fit the request, or contradicts itself.
    """
    header = reply.header
    if len(header.results) != len(request.sent):
        said = f"{len(request.sent)} images were sent and {len(header.results)} results came back"
        raise ServerError(said)
    timings, done = _timings(header.timings), _done(header, wish)
    every: dict[int, Result] = dict(request.failed)
    for index, result in zip(request.sent, header.results, strict=True):
        if result.HasField("error"):
            every[index] = _failed(result, index)
            continue
        every[index] = _embedding(result, reply, spec, timings, done)
    return [every[index] for index in sorted(every)]


def item(data: bytes, wish: Wish, spec: ModelSpec, lent: Callable[[int], Range | None]) -> tuple[int, Result]:
    """The number and the result in one reply of a stream.

    Args:
        data: the reply.
        wish: what was asked for.
        spec: of the model.
        lent: shared memory that an item was answered in, by its number.

    Raises:
        ServerError: it is no EmbedStreamResponse, or contradicts itself.
    """
    try:
        header, payloads = framing.split(data)
    except InvalidArgumentError as error:
        raise ServerError(f"the reply of {len(data)} bytes is no EmbedStreamResponse: {error}") from None
    said = message(pb.EmbedStreamResponse, header)
    if said.result.HasField("error"):
        return said.id, _failed(said.result, said.id)
    done = _done(said, wish)
    answered = Reply(said, payloads, lent(said.id))
    return said.id, _embedding(said.result, answered, spec, _timings(said.timings), done)


def _failed(result: pb.ItemResult, index: int) -> ImageError:
    return ImageError(result.error.message, cause=result.error.reason, index=index)


def _embedding(
    result: pb.ItemResult, reply: Reply[H], spec: ModelSpec, timings: Timings, done: dict[str, Selection]
) -> Embedding:
    return Embedding(
        outputs={
            tensor.name: _array(tensor, reply, what=f"output {tensor.name}") for tensor in result.outputs
        },
        grid=(result.grid.height, result.grid.width),
        spec=spec,
        version=reply.header.version,
        timings=timings,
        decode=decodes.of_enum(reply.header.decode),
        selections=done,
        scales={
            tensor.name: _array(tensor.scale, reply, what=f"scale of output {tensor.name}")
            for tensor in result.outputs
            if tensor.HasField("scale")
        },
        unproven=reply.header.unproven,
    )


def _done(header: H, wish: Wish) -> dict[str, Selection]:
    """What the server says it did, by output.

    Raises:
        ServerError: it says nothing, or did something else.
    """
    try:
        done = {item.name: output_request.read(item) for item in header.outputs}
    except InvalidArgumentError as error:
        raise ServerError(f"the reply contradicts itself: {error}") from None
    # A server from before there were selections says nothing, and does element types only.
    before = not done and replace(wish.selection, dtype=WHOLE.dtype) == WHOLE
    wrong = [name for name in wish.outputs if done.get(name) != wish.selection]
    if wrong and not before:
        said = done.get(wrong[0], "nothing")
        raise ServerError(f"output {wrong[0]}: {wish.selection} was asked for; the server says it did {said}")
    return done


def _array(tensor: tensor_pb2.Tensor, reply: Reply[H], *, what: str) -> Array:
    where, payloads = tensor.WhichOneof("location"), reply.payloads
    data: bytes | memoryview
    if where == "payload" and tensor.payload < len(payloads):
        data = payloads[tensor.payload]
    elif where == "data":
        data = tensor.data
    elif where == "shared" and reply.range is not None:
        data = reply.range.read(tensor.shared)
    else:
        said = f"payload {tensor.payload} of {len(payloads)}" if where == "payload" else f"{where} bytes"
        raise ServerError(f"{what} is said to be in {said}, which the reply does not hold")
    try:
        array = tensors.view(data, tensor.dtype, tensor.shape, what=what)
    except InvalidArgumentError as error:
        raise ServerError(f"the reply contradicts itself: {error}") from None
    array.flags.writeable = False  # bfloat16 comes as a copy; all results are alike
    return array


def _timings(timings: pb.Timings) -> Timings:
    return Timings(
        decode_ms=timings.decode_ms,
        preprocess_ms=timings.preprocess_ms,
        queue_ms=timings.queue_ms,
        run_ms=timings.run_ms,
        encode_ms=timings.encode_ms,
        total_ms=timings.total_ms,
        batch_size=timings.batch_size,
    )
