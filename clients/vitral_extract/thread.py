"""A thread whose end can be waited for under Ctrl-C.

`Thread.join`, interrupted, takes a thread that still runs for one that has ended, and nobody waits for it any
more: the process goes down around it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Thread:
    """A thread of this process; the process does not end before it.

    Args:
        work: what it does.
        name: for whoever looks.
    """

    def __init__(self, work: Callable[[], None], *, name: str) -> None:
        self._work = work
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Waits for its end, at most so long; whether it has ended."""
        return self._ended.wait(seconds)

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._ended.set()
