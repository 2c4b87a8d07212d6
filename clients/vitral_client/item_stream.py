"""What both clients do for EmbedStream, without the waiting: messages there, results back, nothing lost.

A stream that breaks is opened again, and what was not answered is sent again, a bounded number of items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import grpc

from vitral import output_request
from vitral.errors import (
    CancelledError,
    ImageError,
    InvalidArgumentError,
    RegionError,
    ServerError,
    UnavailableError,
    VitralError,
)
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1.model_pb2 import ModelSpec
from vitral_client import argument, failure, reply
from vitral_client.call import SERVICE, Deadline
from vitral_client.failure import LostError
from vitral_client.image import Image
from vitral_client.item_memory import Lending, Sent, framed, sent
from vitral_client.memory import Range
from vitral_client.reply import Result
from vitral_client.request import Wish, split_name

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
        lending: shared memory for tensors; None: they go through messages.
        unanswered: what was sent, by number, in order.
        broken: times that the stream broke since the last answer.
    """

    wish: Wish
    spec: ModelSpec
    terms: Terms
    lending: Lending | None = None
    unanswered: dict[int, Sent] = field(default_factory=dict)
    broken: int = 0
    _opened: bool = False
    _ready: dict[int, Result] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether nothing more is to be taken in now."""
        return len(self.unanswered) + len(self._ready) >= self.terms.in_flight

    def opening(self) -> Iterator[bytes]:
        """The messages that begin a call: the configuration, and what is not answered."""
        if self._opened:  # and broke: whoever answers now may be another server, without this memory
            self.lending = None
            for number, one in list(self.unanswered.items()):
                one.lost()
                self._again(number, one)
        self._opened = True
        name, version = split_name(self.wish.model)
        order = pb.STREAM_ORDER_IN_ORDER if self.terms.ordered else pb.STREAM_ORDER_UNSPECIFIED
        config = pb.EmbedStreamConfig(
            model=name, version=version, order=order, expect_fingerprint=self.wish.fingerprint
        )
        if self.wish.size is not None:
            config.size.height, config.size.width = self.wish.size
        config.outputs.extend(output_request.write(name, self.wish.selection) for name in self.wish.outputs)
        yield pb.EmbedStreamRequest(config=config).SerializeToString()
        yield from (one.message for one in self.unanswered.values())

    def made(self, number: int, image: Image) -> Sent | ImageError:
        """What `take` takes of an image. From any thread."""
        return sent(number, image, self.lending)

    def take(self, number: int, made: Sent | ImageError) -> bytes | None:
        """Takes an image in; what is to be sent of it."""
        if isinstance(made, ImageError):
            self._ready[number] = made
            return None
        self.unanswered[number] = made
        return made.message

    def answered(self, data: bytes) -> bytes | None:
        """Takes in a reply; what is to be sent again the ordinary way, where shared memory was refused.

        Raises:
            ServerError: it is none, or answers nothing that was asked.
        """
        number, result = reply.item(data, self.wish, self.spec, self._lent)
        one = self.unanswered.get(number)
        if one is None:
            raise ServerError(f"the server answered item {number}, which does not wait for an answer")
        self.broken = 0
        if isinstance(result, ImageError):
            one.refused()
            if result.cause == RegionError.reason and one.outputs is not None:
                self.lending = None
                return self._again(number, one)
        del self.unanswered[number]
        self._ready[number] = result
        return None

    def leave(self) -> None:
        """Nobody waits any more."""
        for one in self.unanswered.values():
            one.lost()

    def _lent(self, number: int) -> Range | None:
        one = self.unanswered.get(number)
        if one is None:
            return None
        one.answered()
        return one.outputs

    def _again(self, number: int, one: Sent) -> bytes | None:
        """The message of an item that was sent already, without shared memory; it keeps its place."""
        if one.outputs is None:
            return one.message
        made = framed(number, one.content, None)
        if isinstance(made, ImageError):
            del self.unanswered[number]
        return self.take(number, made)

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
