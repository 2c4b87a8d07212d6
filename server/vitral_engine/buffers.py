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


@dataclass(frozen=True)
class Slot:
    """One input or output of a graph.

    Attributes:
        name: as the graph says it.
        row: shape of one row.
        dtype: of its elements.
    """

    name: str
    row: tuple[int, ...]
    dtype: np.dtype[Any]

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
