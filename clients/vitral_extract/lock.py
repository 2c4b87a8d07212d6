"""One run for each folder: a file lock, which the kernel gives back when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitral.errors import UnavailableError

FILE = ".lock"
"""Name of the file in the folder of a run."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder. A file that a dead process left behind holds nobody up.

    Raises:
        UnavailableError: another run holds it; the message names its process.
    """
    with (folder / FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip()
            raise UnavailableError(
                f"{folder} is being written by another run, process {who or '?'}"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
