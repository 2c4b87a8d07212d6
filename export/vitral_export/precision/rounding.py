"""How single tensors lose precision: rounded once to float16, or quantised to int8 by column."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitral.errors import ProofError
from vitral.tensors import Array
from vitral_export.precision.kinds import HALF_MAX

LEVELS = 127
"""Largest level of a quantised weight; -128 is not used, so that 0 is in the middle."""

PIXEL_SCALE = 128.0
"""What centred pixels are divided by, and the weights that take them multiplied with, before float16.

A weight with 1/255 folded into it would be too small for float16 to hold all its bits. Both are exact.
"""

Quantised: TypeAlias = tuple[NDArray[np.int8], NDArray[np.float32]]


def half(array: Array, name: str, *, factor: float = 1.0) -> NDArray[np.float16]:
    """The tensor, times a power of two, rounded once to float16 (to nearest, ties to even).

    Raises:
        ProofError: a value is beyond float16.
    """
    scaled = array if factor == 1 else np.asarray(array * np.float32(factor))
    with np.errstate(over="ignore"):
        rounded: NDArray[np.float16] = scaled.astype(np.float16)
    if (np.isinf(rounded) & np.isfinite(scaled)).any():
        largest = float(np.abs(scaled[np.isfinite(scaled)]).max())
        raise ProofError(f"numbers: {name} reaches {largest:.6g}, float16 ends at {HALF_MAX:.0f}")
    return rounded


def is_matrix(array: Array) -> bool:
    """Whether at least two axes are longer than one: what is worth being stored as float16."""
    long = [extent for extent in array.shape if extent > 1]
    return len(long) > 1


def quantised(matrix: Array, name: str) -> Quantised:
    """Levels (K, N) and the scale of each column (N,), whose product is the matrix but for rounding.

    Raises:
        ProofError: a value is NaN or Inf.
    """
    if not np.isfinite(matrix).all():
        raise ProofError(f"numbers: {name} holds NaN or Inf")
    scale = np.abs(matrix).max(axis=0) / np.float32(LEVELS)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)  # a column of zeros
    levels = np.clip(np.rint(matrix / scale), -LEVELS, LEVELS)
    return levels.astype(np.int8), scale
