"""What both clients do for EmbedStream, without the waiting: messages there, results back, nothing lost.

A stream that breaks is opened again, and what was not answered is sent again, a bounded number of items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import grpc

from vitral import framing, output_request
from vitral.errors import (
    CancelledError,
    ImageError,
    InvalidArgumentError,
    ServerError,
    UnavailableError,
    VitralError,
)
from vitral.limits import MAX_MESSAGE_BYTES
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1.model_pb2 import ModelSpec
from vitral_client import argument, failure, reply
from vitral_client.call import SERVICE, Deadline
from vitral_client.failure import LostError
from vitral_client.image import Image, Pixels
from vitral_client.parts import read_any
from vitral_client.request import Wish, fill, split_name
from vitral_client.steps import Result

PATH = f"{SERVICE}/EmbedStream"

_WRITTEN_TO_A_DEAD_CALL = "Internal error from Core"
"""What grpc's asyncio says in the place of the status, where that has come but was not read yet."""

_PAUSES = (0.1, 0.2, 0.4)
"""Seconds before a stream is opened again, while no answer has come in between."""


@dataclass(frozen=True)
class Terms:
    """How a stream is to be done.

    Attributes:
        ordered: whether results keep the order of the images.
        in_flight: most images taken in and not given.
        deadline: of the whole stream; None: it has none.

    Raises:
        InvalidArgumentError: one of them is of another type, or out of range.
    """

    ordered: bool
    in_flight: int
    deadline: Deadline | None

    def __post_init__(self) -> None:
        """Checks both."""
        argument.count("in_flight", self.in_flight)
        if not isinstance(self.ordered, bool):
            raise InvalidArgumentError(f"ordered is True or False, not {self.ordered!r}")

    def left(self) -> float | None:
        """Seconds that a call has; None: as many as it takes."""
        return None if self.deadline is None else self.deadline.left()

    def error(self, error: grpc.RpcError, address: str) -> VitralError:
        """The error of vitral a call to this address ended with."""
        call = cast("grpc.Call", error)
        if call.code() is grpc.StatusCode.INTERNAL and call.details() == _WRITTEN_TO_A_DEAD_CALL:
            return LostError(f"the stream to {address} broke while a message was being sent")
        seconds = 0.0 if self.deadline is None else self.deadline.seconds
        return failure.of_call(error, address=address, seconds=seconds)


@dataclass
class Flow:
    """One stream of items: what was taken in and not yet given.

    Attributes:
        wish: what is wanted, of the fingerprint that the model had.
        spec: of the model.
        terms: how.
        unanswered: messages by number, in order.
        broken: times that the stream broke since the last answer.
    """

    wish: Wish
    spec: ModelSpec
    terms: Terms
    unanswered: dict[int, bytes] = field(default_factory=dict)
    broken: int = 0
    _ready: dict[int, Result] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether nothing more is to be taken in now."""
        return len(self.unanswered) + len(self._ready) >= self.terms.in_flight

    def opening(self) -> Iterator[bytes]:
        """The messages that begin a call: the configuration, and what is not answered."""
        name, version = split_name(self.wish.model)
        order = pb.STREAM_ORDER_IN_ORDER if self.terms.ordered else pb.STREAM_ORDER_UNSPECIFIED
        config = pb.EmbedStreamConfig(
            model=name, version=version, order=order, expect_fingerprint=self.wish.fingerprint
        )
        if self.wish.size is not None:
            config.size.height, config.size.width = self.wish.size
        config.outputs.extend(output_request.write(name, self.wish.selection) for name in self.wish.outputs)
        yield pb.EmbedStreamRequest(config=config).SerializeToString()
        yield from self.unanswered.values()

    def take(self, number: int, made: bytes | ImageError) -> None:
        """Takes in what `message` made of an image."""
        if isinstance(made, ImageError):
            self._ready[number] = made
        else:
            self.unanswered[number] = made

    def answered(self, data: bytes) -> None:
        """Takes in a reply.

        Raises:
            ServerError: it is none, or answers nothing that was asked.
        """
        number, result = reply.item(data, self.wish, self.spec)
        if self.unanswered.pop(number, None) is None:
            raise ServerError(f"the server answered item {number}, which does not wait for an answer")
        self._ready[number] = result
        self.broken = 0

    def given(self) -> Iterator[tuple[int, Result]]:
        """What can be given now, with the number of its image."""
        ordered = self.terms.ordered
        first = next(iter(self.unanswered), None) if ordered else None
        for number in sorted(self._ready) if ordered else list(self._ready):
            if first is not None and number > first:
                return
            yield number, self._ready.pop(number)

    def pause(self, error: VitralError) -> float:
        """Seconds until the stream is opened again after this error; raises it where that is no use."""
        if not isinstance(error, UnavailableError | CancelledError) or self.broken >= len(_PAUSES):
            raise error
        self.broken += 1
        return _PAUSES[self.broken - 1]


def message(number: int, image: Image) -> bytes | ImageError:
    """The message of one image, or why it has none."""
    content = read_any(number, image)
    if isinstance(content, ImageError):
        return content
    request = pb.EmbedStreamRequest(id=number)
    payloads = []
    if isinstance(content, bytes):
        request.item.encoded = content
    else:
        tensor = request.item.pixels if isinstance(content, Pixels) else request.item.prepared
        tensor.payload = 0
        payloads.append(fill(tensor, content))
    total = framing.framed_bytes(request.ByteSize(), (payload.nbytes for payload in payloads))
    if total > MAX_MESSAGE_BYTES:
        told = f"the image takes {total} bytes, over the limit of {MAX_MESSAGE_BYTES} bytes a message"
        return ImageError(told, cause="too_large", index=number)
    header = request.SerializeToString()
    return framing.join(header, payloads) if payloads else header
