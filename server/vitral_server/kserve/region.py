"""POSIX shared memory of callers: read and written through its file, never mapped.

The owner of such memory may cut it short at any time. A mapping would then end the server (SIGBUS); a read
comes out short, and a write makes the file longer again.
"""

from __future__ import annotations

import os
import stat
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitral.errors import InvalidArgumentError
from vitral.tensors import Array
from vitral_server.kserve.status import ForeignError, RegionMemoryError

FOLDER = Path("/dev/shm")  # noqa: S108  (where Linux keeps POSIX shared memory, by definition)
"""Where shared memory has its files."""


class Region:
    """A registered region; its file stays open as long as anything uses it.

    Attributes:
        name, key, offset, size: as it was registered.

    Raises:
        RegionMemoryError: there is no such shared memory.
        ForeignError: it belongs to another user.
        InvalidArgumentError: it is smaller than what is to be registered.
    """

    def __init__(self, name: str, key: str, offset: int, size: int) -> None:
        self.name, self.key, self.offset, self.size = name, key, offset, size
        self._descriptor = _open(key)
        weakref.finalize(self, os.close, self._descriptor)
        there = os.fstat(self._descriptor)
        if not stat.S_ISREG(there.st_mode):
            raise _unable(key)
        if there.st_uid != os.geteuid():
            told = f"shared memory region '{key}' belongs to user {there.st_uid}"
            raise ForeignError(f"{told}; the server runs as user {os.geteuid()}")
        if not size or offset + size > there.st_size:
            told = f"bytes {offset} to {offset + size} of the {there.st_size} of '{key}'"
            raise InvalidArgumentError(
                f"failed to register shared memory region '{name}': invalid args: {told}"
            )

    @property
    def unlinked(self) -> bool:
        """Whether its key is gone: nobody can open it any more."""
        return os.fstat(self._descriptor).st_nlink == 0

    def slice(self, offset: int, size: int) -> Slice:
        """A range of it.

        Raises:
            InvalidArgumentError: it does not lie in the region.
        """
        if not 0 <= offset < self.size:
            raise InvalidArgumentError(f"Invalid offset for shared memory region: '{self.name}'")
        if not 0 <= size <= self.size - offset or (size == 0 and offset == 0):
            raise InvalidArgumentError(f"Invalid offset + byte size for shared memory region: '{self.name}'")
        return Slice(self, self.offset + offset, size)

    def read(self, at: int, size: int) -> bytes:
        """Bytes of the shared memory.

        Raises:
            RegionMemoryError: it was cut short.
        """
        data = os.pread(self._descriptor, size, at)
        if len(data) != size:
            told = f"only {len(data)} of the {size} bytes at {at} are there any more"
            raise RegionMemoryError(f"shared memory region '{self.name}' was cut short: {told}")
        return data

    def write(self, at: int, array: Array) -> None:
        """Puts a contiguous array there.

        Raises:
            RegionMemoryError: the system does not take it.
        """
        try:
            written = os.pwrite(self._descriptor, array.data.cast("B"), at)
        except OSError as error:
            told = f"shared memory region '{self.name}' cannot be written: {error.strerror}"
            raise RegionMemoryError(told) from None
        if written != array.nbytes:
            told = f"shared memory region '{self.name}' took {written} of {array.nbytes} bytes"
            raise RegionMemoryError(told)


@dataclass(frozen=True)
class Slice:
    """A range of a region.

    Attributes:
        at: where it begins in the shared memory.
        nbytes: its length.
    """

    region: Region
    at: int
    nbytes: int

    def read(self) -> bytes:
        """Its bytes."""
        return self.region.read(self.at, self.nbytes)

    def put(self, place: int, row: Array) -> None:
        """Writes the row at `place` of rows like it."""
        self.region.write(self.at + place * row.nbytes, np.ascontiguousarray(row))


def _open(key: str) -> int:
    name = key.lstrip("/")
    if not name or "/" in name or name in (".", "..") or "\0" in name:
        raise _unable(key)
    try:
        # A device or a pipe would have effects, or wait; a link would lead elsewhere.
        return os.open(FOLDER / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _unable(key, f": {error.strerror}") from None


def _unable(key: str, why: str = "") -> RegionMemoryError:
    return RegionMemoryError(f"Unable to open shared memory region: '{key[:100]}'{why}")
