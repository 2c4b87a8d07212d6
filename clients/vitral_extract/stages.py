"""Where the time goes: seconds of work by stage, added up over all threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping

STAGES = ("read", "decode", "preprocess", "run", "call", "cast", "write", "wait")
"""Every stage: `call` is a server's whole answer, `wait` a worker's wait for the writer."""


class Stages:
    """Adds up from several threads."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float) -> None:
        """Some more seconds of a stage."""
        with self._lock:
            self._seconds[stage] += seconds

    def seconds(self) -> Mapping[str, float]:
        """Seconds of each stage so far."""
        with self._lock:
            return dict(self._seconds)

    def bottleneck(self) -> str:
        """The stage that took the most; empty before there is any."""
        stage, most = max(self.seconds().items(), key=lambda pair: pair[1])
        return stage if most else ""
