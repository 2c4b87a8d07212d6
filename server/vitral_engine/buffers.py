"""The arrays one run reads and fills, and what a graph wants them to look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vitral.tensors import Array


@dataclass(frozen=True)
class Buffers:
    """Input and output arrays for the largest batch; the first `n` rows belong to a run of `n`."""

    input: Array
    outputs: dict[str, Array]

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
