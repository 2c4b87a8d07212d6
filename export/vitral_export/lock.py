"""The lock of one NAME: a file that is there only while it is held, in a folder that nobody else needs."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

_TRIES = 1000


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Holds the lock file; the kernel gives it back when the process dies.

    Folders above it are made, and those made here that are empty again are removed on the way out.

    Raises:
        OSError: the file cannot be made.
    """
    missing = [folder for folder in path.parent.parents if not folder.exists()]
    try:
        with _locked(path):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)  # while it is ours: who waits for it sees that and starts again
    finally:
        with suppress(OSError):  # another export is using it, or it is a link
            for folder in (path.parent, *missing):
                folder.rmdir()


def _locked(path: Path) -> IO[str]:
    """The open file, locked: the one of this name now, not one that its last holder has removed."""
    problem: OSError = FileNotFoundError(f"{path} was removed {_TRIES} times")
    for _ in range(_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except (FileNotFoundError, FileExistsError) as error:  # removed just now by another export, as a rule
            problem = error
            continue
        try:
            _wait(file, path.stem)
            if _is_current(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
    raise problem


def _wait(file: IO[str], name: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.warning("another export of %s is running: waiting for it", name)
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_current(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
