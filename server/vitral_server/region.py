"""One region of shared memory: opened through its owner's descriptor, checked, mapped.

What is mapped is a memfd sealed against shrinking, so that no owner can make the server fault (SIGBUS) by
cutting it; it has no name in any file system, and the kernel frees it when the last mapping is gone.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from hmac import compare_digest

import numpy as np

from vitral.errors import InvalidArgumentError, RegionError
from vitral.limits import MAX_REGION_BYTES
from vitral.tensors import Array
from vitral.v1 import embedding_service_pb2 as pb

_LEAST_PROOF, _MOST_PROOF = 16, 64


class Region:
    """A mapped region. It stays mapped until nobody holds `memory` any more.

    Attributes:
        memory: all of it, (size,) uint8, written by the owner too.
    """

    def __init__(self, request: pb.RegisterRegionRequest) -> None:
        """Opens and maps it.

        Raises:
            InvalidArgumentError: the request is not valid.
            RegionError: there is no such memory, or it is not safe to use.
        """
        _check(request)
        self._descriptor = _open(request)
        try:
            self.memory = self._map(request)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes."""
        return self.memory.nbytes

    def orphaned(self) -> bool:
        """Whether its owner's lock is gone: the owner let go of it, or died."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Lets go of the file; the mapping goes with its last user."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _map(self, request: pb.RegisterRegionRequest) -> Array:
        said, there = (
            f"process {request.process}, descriptor {request.descriptor}",
            os.fstat(self._descriptor),
        )
        if not stat.S_ISREG(there.st_mode) or there.st_uid != os.geteuid():
            raise RegionError(f"{said} is no memory of user {os.geteuid()}, who runs the server")
        if there.st_size < request.size:
            raise RegionError(f"{said} has {there.st_size} bytes, and {request.size} are to be mapped")
        # Huge pages come from a pool that can run dry under a mapping.
        if not _seals(self._descriptor) & fcntl.F_SEAL_SHRINK or _page(self._descriptor) != mmap.PAGESIZE:
            raise RegionError(f"{said} is no memfd of ordinary pages sealed by F_SEAL_SHRINK")
        if self.orphaned():
            raise RegionError(f"{said} is not locked by its owner, who holds an exclusive flock on it")
        try:
            memory = np.frombuffer(mmap.mmap(self._descriptor, request.size), np.uint8)
        except OSError as error:
            raise RegionError(f"{said} cannot be mapped: {error.strerror}") from None
        if not compare_digest(memory[: len(request.proof)].tobytes(), request.proof):
            raise RegionError(
                f"{said} does not begin with the proof of {len(request.proof)} bytes that was sent"
            )
        return memory


def _check(request: pb.RegisterRegionRequest) -> None:
    if not _LEAST_PROOF <= len(request.proof) <= _MOST_PROOF:
        told = f"the proof has {len(request.proof)} bytes; it must have {_LEAST_PROOF} to {_MOST_PROOF}"
        raise InvalidArgumentError(told)
    if not mmap.PAGESIZE <= request.size <= MAX_REGION_BYTES:
        told = f"the region has {request.size} bytes; it must have {mmap.PAGESIZE} to {MAX_REGION_BYTES}"
        raise InvalidArgumentError(told)


def _open(request: pb.RegisterRegionRequest) -> int:
    path = f"/proc/{request.process}/fd/{request.descriptor}"
    said = f"process {request.process} has no memfd open as descriptor {request.descriptor}"
    try:
        if not os.readlink(path).startswith(
            "/memfd:"
        ):  # nothing else is opened at all: that can have effects
            raise RegionError(f"{said} here; a caller in another container is no caller on the same machine")
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise RegionError(f"{said} that the server may open: {error.strerror}") from None


def _seals(descriptor: int) -> int:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return 0


def _page(descriptor: int) -> int:
    return os.fstatvfs(descriptor).f_bsize
