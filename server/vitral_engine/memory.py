"""Memory of a device as a lane uses it: host arrays to copy from and to, blocks on the device, the copies."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from vitral.tensors import Array


class Block(Protocol):
    """Bytes on a device; they are given back when nothing holds the object any more."""

    address: int
    size: int


class Memory(Protocol):
    """One device's memory, for one lane.

    Attributes:
        kind: the device's name in onnxruntime, "cpu" or "cuda".
        index: its number.
    """

    kind: str
    index: int

    def host(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """A host array of zeros from which the device copies fast."""

    def block(self, size: int) -> Block:
        """Memory on the device."""

    def upload(self, address: int, array: Array) -> None:
        """Copies a contiguous array to the device; done when it returns."""

    def download(self, array: Array, address: int) -> None:
        """Fills a contiguous array from the device; done when it returns."""


class HostBlock:
    """Ordinary memory, standing for a device's."""

    def __init__(self, size: int) -> None:
        self._bytes = np.zeros(size, np.uint8)
        self.address = int(self._bytes.ctypes.data)
        self.size = size


class HostMemory:
    """The CPU as a device like others: the same copies, between two places in its own memory."""

    kind = "cpu"
    index = 0

    def host(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """See `Memory.host`."""
        return np.zeros(shape, dtype)

    def block(self, size: int) -> Block:
        """See `Memory.block`."""
        return HostBlock(size)

    def upload(self, address: int, array: Array) -> None:
        """See `Memory.upload`."""
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: Array, address: int) -> None:
        """See `Memory.download`."""
        ctypes.memmove(array.ctypes.data, address, array.nbytes)
