"""What a person sees of a run: one line that moves on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from vitral_extract.outlook import Outlook
from vitral_extract.run import Watcher
from vitral_extract.work import Work

_PLAIN_EVERY = 10.0  # seconds between two plain lines
_NOW = 5.0  # seconds that count as now


@contextmanager
def shown(file: TextIO, *, quiet: bool) -> Iterator[Watcher]:
    """Who shows a run on this stream: a line that moves on a terminal, plain lines elsewhere."""
    if quiet:
        yield _Silent()
        return
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        yield _Plain(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield _Moving(live)


class _Silent:
    def listed(self, count: int) -> None:
        pass

    def seen(self, work: Work, outlook: Outlook) -> None:
        pass


class _Moving:
    def __init__(self, live: Live) -> None:
        self._live = live
        self._line = Line()

    def listed(self, count: int) -> None:
        self._live.update(Text(f"{count} images listed"))

    def seen(self, work: Work, outlook: Outlook) -> None:
        self._live.update(Text(self._line.text(work, outlook)))


class _Plain:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._line = Line()
        self._next = monotonic() + _PLAIN_EVERY

    def listed(self, count: int) -> None:
        self._say(f"{count} images listed")

    def seen(self, work: Work, outlook: Outlook) -> None:
        # Each time, for the speed of now is taken from the counts of the last seconds.
        self._say(self._line.text(work, outlook))

    def _say(self, text: str) -> None:
        if monotonic() >= self._next:
            self._console.print(text, soft_wrap=True, markup=False)
            self._next = monotonic() + _PLAIN_EVERY


class Line:
    """The words of the line, from counts at several moments."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._begun = 0.0

    def text(self, work: Work, outlook: Outlook) -> str:
        """Pictures, speed now and on average, what is left, bytes, errors, and where the time goes."""
        now, done = monotonic(), work.tally.pictures
        self._begun = self._begun or now  # not before: listing the source is not embedding
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[0][0] < now - _NOW:
            self._seen.popleft()
        then, before = self._seen[0]
        mean = done / max(now - self._begun, 1e-9)
        speed = (done - before) / max(now - then, 1e-9)
        left = (outlook.pictures - done) / mean if mean else 0.0
        parts = [
            f"{done}/{outlook.pictures} images",
            f"{speed:.0f}/s now, {mean:.0f}/s mean",
            f"{duration(left)} left" if mean else "",
            f"{size(work.tally.bytes)} written",
            f"{work.tally.errors} errors",
            shares(work),
        ]
        return "  ".join(part for part in parts if part)


def shares(work: Work) -> str:
    """`decode 61 %, run 30 %, ...`: shares of the workers' time, the largest first."""
    seconds = {stage: spent for stage, spent in work.stages.seconds().items() if spent}
    whole = sum(seconds.values())
    if not whole:
        return ""
    ordered = sorted(seconds.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{stage} {spent / whole:.0%}" for stage, spent in ordered)


def size(count: float) -> str:
    """`1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """`1:02:03`, or `4:05`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
