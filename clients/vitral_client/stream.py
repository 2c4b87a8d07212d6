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
from vitral_client.image import Image
from vitral_client.parts import Parts, read_any
from vitral_client.request import Wish
from vitral_client.steps import Result, Steps, Verbs


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


@dataclass
class Stream:
    """One run over a caller's images."""

    verbs: Verbs
    wish: Wish
    timeout: float | None
    bounds: Bounds

    def __post_init__(self) -> None:
        """Checks the timeout; each request gets its own deadline."""
        self._clock = partial(self.verbs.deadline, self.timeout)
        self._clock()
        self._pinned = False

    def moves(self) -> Moves:
        """Everything there is to do. What fails is raised after the results that came before it."""
        under_way: deque[UnderWay] = deque()
        chunk: list[Image] = []
        failure: Exception | None = None
        pulled = given = 0
        ended = False
        while under_way or not ended:
            oldest = under_way[0] if under_way else None
            full = pulled - given == self.bounds.batch * self.bounds.in_flight
            image: Image | Signal = Signal.ANSWERED
            if not (full or ended):
                try:
                    image = yield Pull(oldest)
                except Exception as error:  # the caller's own
                    failure, image = error, Signal.END
            if image is Signal.ANSWERED:
                results = yield Join(under_way.popleft())
                yield Give(results)
                given += len(results)
                continue
            if isinstance(image, Signal):
                ended = True
            else:
                chunk.append(image)
                pulled += 1
            if chunk and (ended or len(chunk) == self.bounds.batch):
                parts = Parts(chunk, start=pulled - len(chunk), read=read_any)
                chunk = []
                try:
                    yield from self._pin(parts)
                except Exception as error:
                    failure, ended = error, True
                    continue
                under_way.append((yield Start(self.verbs.answers(parts, self.wish, self._clock))))
        if failure is not None:
            raise failure

    def _pin(self, parts: Parts) -> Generator[Run, Any, None]:
        """Before anything is sent: all of one stream come from one embedding space."""
        if not self._pinned:
            wish: Wish | None = yield Run(self.verbs.pinned(parts, self.wish, self._clock))
            self._pinned = wish is not None
            self.wish = wish or self.wish
