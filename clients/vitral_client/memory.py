"""Memory shared with the server: ranges are lent to calls, and come back with their last view."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import weakref
from bisect import bisect
from collections import deque
from secrets import token_bytes

import numpy as np

from vitral import sizes
from vitral.errors import ServerError, UnsupportedError
from vitral.tensors import Array
from vitral.v1 import tensor_pb2

REGION_BYTES = 256 * 1024 * 1024
"""Size of a region. Memory is taken only as ranges of it are used, the first ones over and over."""

_HEAD = mmap.PAGESIZE
"""Bytes at the beginning that are never lent: the proof stands there."""


class Region:
    """Anonymous memory, locked and sealed as the server wants it. Threads may share one.

    The rule: a range comes back when its call was answered and nobody holds a result any more. One whose call
    ended in any other way never does: the server may still be writing there.

    Attributes:
        proof: what stands at the beginning.
        name: that the server gave it; empty: not yet.
        lost: bytes that never come back.

    Raises:
        UnsupportedError: this system has no such memory.
    """

    def __init__(self, size: int) -> None:
        self.proof, self.name, self.lost = token_bytes(32), "", 0
        self.size = size
        self.descriptor = _memory(size)
        self._unlock = weakref.finalize(self, _close, self.descriptor, os.getpid())
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        self._memory = mmap.mmap(self.descriptor, size)
        self._memory[: len(self.proof)] = self.proof
        self._free = [(_HEAD, size - _HEAD)]  # (offset, size), in order, never adjacent
        self._back: deque[tuple[int, int]] = deque()
        self._lock = threading.Lock()

    def lend(self, size: int) -> Range | None:
        """A range of at least this many bytes, the first that is free; None: there is none."""
        size = sizes.aligned(size)
        with self._lock:
            while self._back:
                self._join(*self._back.popleft())
            for place, (offset, room) in enumerate(self._free):
                if room >= size:
                    rest = [(offset + size, room - size)] if room > size else []
                    self._free[place : place + 1] = rest
                    return Range(self, offset, size)
        return None

    def take_back(self, offset: int, size: int) -> None:
        """A range is free again. From any thread, also in the middle of anything: a collector may call it."""
        self._back.append((offset, size))

    def lose(self, size: int) -> None:
        """A range will never be free again."""
        with self._lock:
            self.lost += size

    def close(self) -> None:
        """Tells the server that this memory is not used any more; results stay valid."""
        self._unlock()

    def array(self, offset: int, size: int) -> Array:
        """Bytes of the region."""
        return np.frombuffer(self._memory, np.uint8, size, offset)

    def _join(self, offset: int, size: int) -> None:
        place = bisect(self._free, (offset, size))
        if place < len(self._free) and self._free[place][0] == offset + size:
            size += self._free.pop(place)[1]
        if place and sum(self._free[place - 1]) == offset:
            place -= 1
            before, more = self._free.pop(place)
            offset, size = before, more + size
        self._free.insert(place, (offset, size))


class Range:
    """A range that was lent to one call."""

    def __init__(self, region: Region, offset: int, size: int) -> None:
        self._region, self.offset, self.size = region, offset, size
        self._bytes: memoryview | None = None

    @property
    def named(self) -> tensor_pb2.SharedRange:
        """As the server is told of it."""
        return tensor_pb2.SharedRange(region=self._region.name, offset=self.offset, size=self.size)

    def give_back(self) -> None:
        """The server has refused the call and writes nothing: the range is free at once."""
        self._region.take_back(self.offset, self.size)

    def lose(self) -> None:
        """Nobody knows whether the server still writes: the range is never free again."""
        self._region.lose(self.size)

    def settle(self) -> None:
        """The call was answered: the range is free when its last view is gone."""
        array = self._region.array(self.offset, self.size)
        # Not through the buffer's own life: views of views all keep this one array.
        weakref.finalize(array, self._region.take_back, self.offset, self.size).atexit = False
        self._bytes = memoryview(array.data).toreadonly()

    def write(self, at: int, array: Array) -> tensor_pb2.SharedRange:
        """Copies a contiguous array to `at`, counted from the range's beginning; the server is told so."""
        offset, size = self.offset + at, array.nbytes
        # Not by NumPy, which lets go of the interpreter for it: threads wait to take it.
        self._region.array(offset, size).data[:] = array.reshape(-1).view(np.uint8).data
        return tensor_pb2.SharedRange(region=self._region.name, offset=offset, size=size)

    def read(self, where: tensor_pb2.SharedRange) -> memoryview:
        """The bytes a reply points to.

        Raises:
            ServerError: they are not in this range.
        """
        start, end = where.offset - self.offset, where.offset - self.offset + where.size
        if self._bytes is None or where.region != self._region.name or start < 0 or end > self.size:
            said = f"bytes {where.offset} to {where.offset + where.size} of shared memory"
            raise ServerError(
                f"the reply points to {said}, lent were {self.offset} to {self.offset + self.size}"
            )
        return self._bytes[start:end]


def _memory(size: int) -> int:
    if not hasattr(os, "memfd_create"):
        raise UnsupportedError("shared memory needs memfd_create, which Linux has and this system has not")
    descriptor = os.memfd_create("vitral", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(
            descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _close(descriptor: int, owner: int) -> None:
    # The mapping has a duplicate of the descriptor, and with it the lock, so that closing is not enough. A
    # forked process shares the lock, and must not undo it.
    if os.getpid() == owner:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
