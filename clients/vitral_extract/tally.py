"""How much is done, counted from several threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts of one run of the command.

    Attributes:
        pictures: embedded or failed.
        errors: of these, failed.
        bytes: written.
        shards: finished.
    """

    pictures: int = 0
    errors: int = 0
    bytes: int = 0
    shards: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, pictures: int = 0, errors: int = 0, bytes: int = 0, shards: int = 0) -> None:
        """Adds to the counts."""
        with self._lock:
            self.pictures += pictures
            self.errors += errors
            self.bytes += bytes
            self.shards += shards
