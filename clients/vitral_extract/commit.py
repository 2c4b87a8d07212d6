"""Files that are there whole or not at all: written aside, synced, renamed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

HASH = "blake3"
"""How files are hashed, hex; `b3sum FILE` prints the same. SHA-256 would cost more than writing does."""

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
    """A large file, chunk by chunk without a copy, and its hash."""
    digest = blake3()
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


def hash_of(path: Path) -> str:
    """The hash of a file, hex."""
    digest, piece = blake3(), bytearray(_PIECE)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(piece):
            digest.update(memoryview(piece)[:size])
    return digest.hexdigest()


def sweep(folder: Path) -> None:
    """Removes what a run that died has left unfinished right in this folder."""
    for path in folder.glob(f"{ASIDE}*"):
        path.unlink(missing_ok=True)
