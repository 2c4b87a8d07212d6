"""The arrays one run reads and fills, and what a graph wants them to look like."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from vitral.tensors import Array

Host: TypeAlias = Callable[[Sequence[int], np.dtype[Any]], Array]
"""Makes an array of zeros from which the device copies fast."""


@dataclass(frozen=True)
class Buffers:
    """Input and output arrays for the largest batch; the first `n` rows belong to a run of `n`.

    Attributes:
        input: of the graph.
        outputs: of the graph, by name.
        arena: whose memory they are, for a model of dynamic size.
    """

    input: Array
    outputs: dict[str, Array]
    arena: Arena | None = None

    def fill(self, place: int, row: Array) -> None:
        """Copies a row in.

        Raises:
            ValueError: it has another shape or type.
        """
        slot = self.input[place]
        if row.shape != slot.shape or row.dtype != slot.dtype:
            raise ValueError(f"row is {row.shape} {row.dtype}, the graph takes {slot.shape} {slot.dtype}")
        # Not by NumPy, which lets go of the interpreter for it: many threads wait to take it.
        slot.data.cast("B")[:] = np.ascontiguousarray(row).data.cast("B")


@dataclass(frozen=True)
class Slot:
    """One input or output of a graph.

    Attributes:
        name: as the graph says it.
        row: shape of one row.
        dtype: of its elements; uint16 for bfloat16.
        element: the same as onnxruntime takes it, which knows bfloat16 by its number.
    """

    name: str
    row: tuple[int, ...]
    dtype: np.dtype[Any]
    element: Any

    def shape(self, rows: int) -> tuple[int, ...]:
        """Shape of a batch."""
        return (rows, *self.row)

    def size(self, rows: int) -> int:
        """Bytes of a batch."""
        return int(np.prod(self.shape(rows))) * self.dtype.itemsize


@dataclass(frozen=True)
class Signature:
    """What a graph takes and gives."""

    input: Slot
    outputs: tuple[Slot, ...]


class Arena:
    """Memory of one run at a time, of any image size: each array grows to the largest that was asked for.

    So there is one for each run that may be at once, however many sizes are asked for, and no run of a size
    that came before pays for fresh pages.

    Args:
        host: makes the arrays.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._arrays: dict[str, Array] = {}

    def buffers(self, signature: Signature, rows: int) -> Buffers:
        """Buffers for up to so many rows of this signature, in place of all that it gave before."""
        outputs = {slot.name: self._array(slot, rows) for slot in signature.outputs}
        return Buffers(self._array(signature.input, rows), outputs, self)

    def _array(self, slot: Slot, rows: int) -> Array:
        shape = slot.shape(rows)
        count = math.prod(shape)
        if slot.name not in self._arrays or self._arrays[slot.name].size < count:
            self._arrays.pop(slot.name, None)  # before there are two
            self._arrays[slot.name] = self._host((count,), slot.dtype)
        return self._arrays[slot.name][:count].reshape(shape)
