"""Every way in every round, each round beginning with another: what else goes on hits all alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.serving import measure
from benchmarks.serving.figures import Figures, Row, summary
from benchmarks.serving.measure import Served, Task
from benchmarks.serving.way import Way

Turn: TypeAlias = Callable[[], Figures]
"""One run of one way."""

LOAD = 0.7
"""Share of a way's peak at which calls come in its open loop."""


ONE_BY_ONE = "W4"
"""The workload on which a request is compared with the engine in process, one caller each."""


@dataclass(frozen=True)
class Extent:
    """How much is measured: callers of the closed loops, seconds of a run, rounds, open loop or not."""

    callers: tuple[int, ...]
    seconds: float
    rounds: int
    open_loop: bool


def rotated(turns: Sequence[Turn], rounds: int) -> list[list[Figures]]:
    """The figures of each turn, one a round."""
    found: list[list[Figures]] = [[] for _ in turns]
    for index in range(rounds):
        for step in range(len(turns)):
            place = (index + step) % len(turns)
            found[place].append(turns[place]())
            print(".", end="", file=sys.stderr, flush=True)
    return found


def run(task: Task, ways: Sequence[Way], extent: Extent, *, limit: bool, loop: bool) -> list[Row]:
    """One workload: the limit, the loop and every way at each number of callers, then the open loops."""
    seconds = extent.seconds
    with ExitStack() as stack:
        turns: list[Turn] = []
        if limit:
            bare = measure.Limit(task)
            turns.append(lambda: bare.run(seconds=seconds))
        if loop:
            turns.append(lambda: measure.loop(task, seconds=seconds))
        callers = extent.callers
        if task.workload.name == ONE_BY_ONE:
            turns.append(lambda: measure.engine(task, seconds=seconds))
            callers = tuple(sorted({1, *callers}))
        up = [stack.enter_context(measure.served(way, task)) for way in ways if way.serves(task.workload)]
        turns += [_closed(one, count, seconds) for one in up for count in callers]
        rows = [summary(rounds) for rounds in rotated(turns, extent.rounds)]
        if extent.open_loop:
            rates = [LOAD * max(row.rate for row in rows if row.way == one.way.name) for one in up]
            late = [_opened(one, rate, seconds) for one, rate in zip(up, rates, strict=True)]
            rows += [summary(rounds) for rounds in rotated(late, extent.rounds)]
    print(file=sys.stderr)
    return rows


def _closed(one: Served, callers: int, seconds: float) -> Turn:
    return lambda: one.run(callers=callers, seconds=seconds)


def _opened(one: Served, rate: float, seconds: float) -> Turn:
    return lambda: one.run(callers=8, seconds=seconds, rate=rate)
