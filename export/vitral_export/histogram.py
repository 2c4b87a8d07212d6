"""Absolute errors counted in bins of half an octave, in units of the output's rms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

LOWEST = -80
"""Binary logarithm of the first edge, in half octaves: errors under 2^-40 rms are counted together."""

HIGHEST = 0
"""Of the last edge: so are errors of an rms and more."""

BINS = HIGHEST - LOWEST + 2
"""Number of bins: one under the first edge, one over the last, and those between."""

Counts = tuple[int, ...]
"""Elements in each bin."""

_BIAS, _MANTISSA = 127, 23  # of a float32


def count(gap: NDArray[np.float64], rms: float) -> Counts:
    """Counts errors `gap` (of either sign) of an output with this rms. Without one, only 0 is small."""
    ratio = gap.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
        ratio *= np.float32(1.0 / rms if rms > 0 else np.inf)
        ratio *= ratio  # so that the exponent counts half octaves
    if not rms > 0:
        ratio[gap == 0] = 0  # not 0 x inf
    exponents = np.bincount(ratio.view(np.uint32).ravel() >> _MANTISSA, minlength=2 * _BIAS + 2)
    first, last = LOWEST + _BIAS, HIGHEST + _BIAS
    inner = exponents[first:last].tolist()
    return (int(exponents[:first].sum()), *inner, int(exponents[last:].sum()))


def total(counts: Iterable[Counts]) -> Counts:
    """The sum, bin by bin."""
    return tuple(map(sum, zip(*counts, strict=True))) or (0,) * BINS


def edges(place: int) -> tuple[float, float]:
    """Where a bin begins and ends, in rms of the output; the first begins at 0, the last has no end."""
    low = 0.0 if place == 0 else 2.0 ** ((place - 1 + LOWEST) / 2)
    high = float("inf") if place == BINS - 1 else 2.0 ** ((place + LOWEST) / 2)
    return low, high


def occupied(counts: Sequence[int]) -> range:
    """From the first bin that holds anything to the last; empty when none does."""
    full = [place for place, number in enumerate(counts) if number]
    return range(full[0], full[-1] + 1) if full else range(0)
