"""Shows people on stderr what a long export is doing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vitral_export.progress import Report, Stage

LONG = 60.0
"""Seconds after which an export is long: where there is no terminal, nothing is said of a shorter one."""


@contextmanager
def on_stderr() -> Iterator[Report]:
    """Bars that go away at the end on a terminal, else a line for each stage that is over."""
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        yield Lines(sys.stderr, after=LONG)
        return
    counts = TextColumn("{task.fields[counts]}")
    columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        yield Bars(bars)


class Bars:
    """One bar for each stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: Stage) -> None:
        """Moves the bar of a stage."""
        if stage.name not in self._tasks:
            self._tasks[stage.name] = self._bars.add_task(stage.name, total=stage.of or None, counts="")
        counts = f"{stage.done} of {stage.of}" if stage.of else ""
        total = stage.of or (1 if stage.over else None)
        done = total if stage.over else stage.done
        self._bars.update(self._tasks[stage.name], completed=done, total=total, counts=counts)


class Lines:
    """A line for each stage that is over, with its seconds, once the export takes long.

    Args:
        out: where to.
        after: seconds until then. What was over before is told at that moment.
        clock: seconds now.
    """

    def __init__(self, out: TextIO, *, after: float, clock: Callable[[], float] = monotonic) -> None:
        self._out, self._clock = out, clock
        self._from = clock() + after
        self._untold: list[str] = []

    def __call__(self, stage: Stage) -> None:
        """Notes what is over, and tells it when it is time."""
        if stage.over:
            pieces = f" ({stage.of})" if stage.of > 1 else ""
            self._untold.append(f"{stage.name}{pieces}: {stage.seconds:.1f} s")
        if self._clock() >= self._from and self._untold:
            print(*self._untold, sep="\n", file=self._out, flush=True)
            self._untold.clear()
