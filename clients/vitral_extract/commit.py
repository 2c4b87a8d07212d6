"""Files that are there whole or not at all: written aside, synced, renamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE = ".aside-"
"""What the names of files begin with that are not finished."""

_PIECE = 2**20  # bytes that are written, then hashed


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path to write to; it takes the place of `path` on a clean exit, and is removed on any other."""
    temporary = path.with_name(f"{ASIDE}{path.name}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """A small file in one piece."""
    with aside(path) as temporary:
        temporary.write_bytes(data)


def stream(path: Path, chunks: Iterable[bytes | memoryview]) -> str:
    """A large file, chunk by chunk without a copy, and its sha256."""
    digest = hashlib.sha256()
    with aside(path) as temporary, temporary.open("wb") as file:
        for chunk in chunks:
            for start in range(0, len(chunk), _PIECE):
                piece = chunk[start : start + _PIECE]
                file.write(piece)
                digest.update(piece)  # while the processor's cache still holds it
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Makes a file, or what a folder lists, outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The hash of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path) -> None:
    """Removes what a run that died has left unfinished right in this folder."""
    for path in folder.glob(f"{ASIDE}*"):
        path.unlink(missing_ok=True)
