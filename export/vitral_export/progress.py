"""What an export is doing, told to whoever asked to be told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Stage:
    """One stage of an export, as it stands now.

    Attributes:
        name: what is being done.
        done, of: pieces of it; of 0 where it has none.
        seconds: since it began.
        over: whether it has ended well. One that fails is told no more.
    """

    name: str
    done: int
    of: int
    seconds: float
    over: bool


Report = Callable[[Stage], None]
"""Called when a stage begins, after each piece, and when it is over, in the thread of the export."""

_report: ContextVar[Report | None] = ContextVar("report", default=None)


@contextmanager
def told(report: Report | None) -> Iterator[None]:
    """Tells `report` of every stage inside; None: nobody."""
    before = _report.set(report)
    try:
        yield
    finally:
        _report.reset(before)


@contextmanager
def stage(name: str, of: int = 0) -> Iterator[Callable[[], None]]:
    """A stage of `of` pieces; what it gives is called after each."""
    report, start, done = _report.get(), perf_counter(), 0

    def tell(*, over: bool) -> None:
        if report is not None:
            report(Stage(name, done, of, perf_counter() - start, over))

    def advance() -> None:
        nonlocal done
        done += 1
        tell(over=False)

    tell(over=False)
    yield advance
    tell(over=True)


def each(name: str, items: Sequence[_Item]) -> Iterator[_Item]:
    """The items, each a piece of a stage."""
    with stage(name, len(items)) as advance:
        for item in items:
            yield item
            advance()
