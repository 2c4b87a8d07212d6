"""`embed_iter` of both clients, without the waiting: images in, results in their order, bounded work between.

Like a verb, a stream is a generator that yields what has to be done and is sent what came of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Protocol, TypeAlias

from vitral_client import argument
from vitral_client.call import Steps
from vitral_client.image import Image
from vitral_client.parts import Parts, read_any
from vitral_client.request import Wish
from vitral_client.steps import Result, Verbs


class UnderWay(Protocol):
    """A verb that was started, as the one who drives it knows it."""

    def done(self) -> bool:
        """Whether its result can be had without waiting."""


class Signal(Enum):
    """What a `Pull` gives in place of an image."""

    END = "end"
    ANSWERED = "answered"


@dataclass(frozen=True)
class Pull:
    """The caller's next image; `END` after the last, `ANSWERED` where what is under way is done first."""

    unless: UnderWay | None


@dataclass(frozen=True)
class Run:
    """Does a verb and waits for it."""

    steps: Steps[Any]


@dataclass(frozen=True)
class Start:
    """Begins a verb; the answer is what is `UnderWay`. Its errors come when it is joined."""

    steps: Steps[Sequence[Result]]


@dataclass(frozen=True)
class Join:
    """Waits for the result of what is under way."""

    what: UnderWay


@dataclass(frozen=True)
class Give:
    """Hands results to the caller, who takes them one by one."""

    results: Sequence[Result]


Moves: TypeAlias = Generator[Pull | Run | Start | Join | Give, Any, None]


@dataclass(frozen=True)
class Bounds:
    """Images of one request, and requests in work.

    Raises:
        InvalidArgumentError: one of them is no whole number from 1 on.
    """

    batch: int
    in_flight: int

    def __post_init__(self) -> None:
        """Checks both."""
        argument.count("batch", self.batch)
        argument.count("in_flight", self.in_flight)


class Stream:
    """One run over a caller's images.

    Args:
        verbs: of the client.
        wish: what is wanted of every image.
        timeout: seconds each request has; None: the client's.
        bounds: how much may be in work.
    """

    def __init__(self, verbs: Verbs, wish: Wish, timeout: float | None, bounds: Bounds) -> None:
        self._verbs, self._wish, self._bounds = verbs, wish, bounds
        self._clock = partial(verbs.deadline, timeout)
        self._clock()  # refuses a timeout that is none
        self._under_way: deque[UnderWay] = deque()
        self._chunk: list[Image] = []
        self._pulled = self._given = 0
        self._pinned = self._ended = False
        self._failure: Exception | None = None

    def moves(self) -> Moves:
        """Everything there is to do. What fails is raised after the results that came before it."""
        while self._under_way or not self._ended:
            image = yield from self._next()
            if image is Signal.ANSWERED:
                results = yield Join(self._under_way.popleft())
                yield Give(results)
                self._given += len(results)
                continue
            if isinstance(image, Signal):
                self._ended = True
            else:
                self._chunk.append(image)
                self._pulled += 1
            if self._chunk and (self._ended or len(self._chunk) == self._bounds.batch):
                yield from self._send()
        if self._failure is not None:
            raise self._failure

    def _next(self) -> Generator[Pull, Any, Image | Signal]:
        ahead = self._pulled - self._given
        if self._ended or ahead == self._bounds.batch * self._bounds.in_flight:
            return Signal.ANSWERED
        try:
            image: Image | Signal = yield Pull(self._under_way[0] if self._under_way else None)
        except Exception as error:  # the caller's own
            self._failure = error
            return Signal.END
        return image

    def _send(self) -> Generator[Run | Start, Any, None]:
        parts = Parts(self._chunk, start=self._pulled - len(self._chunk), read=read_any)
        self._chunk = []
        if not self._pinned:
            # Before anything is sent: all of one stream come from one embedding space.
            try:
                pinned: Wish | None = yield Run(self._verbs.pinned(parts, self._wish, self._clock))
            except Exception as error:
                self._failure, self._ended = error, True
                return
            self._pinned = pinned is not None
            self._wish = pinned or self._wish
        self._under_way.append((yield Start(self._verbs.answers(parts, self._wish, self._clock))))
