"""How far an output is from its float64 truth, row by row, and the budget it is held against.

A row is one image. Figures are of the worst row, so that a batch of any size is judged alike and a single
wrong image cannot hide among good ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REL_L2_FLOOR = 2.0**-22
"""Relative L2 error granted on top of three times torch's own."""

MAX_ABS_FLOOR = 64 * 2.0**-24
"""Absolute error granted on top of three times torch's own, in units of the output's rms."""

UNPROVEN_GRANT = 32
"""Floors of a budget granted to a model without a reference: 2^-17 relative L2 and 2^-13 rms of the output.

Two runs in float32 differ by about as much as each is off the truth, which for a ViT is some 1e-7.
"""

ILL_CONDITIONED = 2e-6
"""A model is ill-conditioned in float32 where torch's own relative L2 error exceeds this."""


@dataclass(frozen=True)
class Errors:
    """Distance of an output from its truth.

    Attributes:
        rel_l2: relative L2 error of the worst row; inf where there is a NaN or Inf.
        max_abs: largest absolute error.
        where: index of that element.
        p999: 99.9th percentile of the absolute errors.
        cosine_gap: largest 1 - cosine over vectors along the last axis.
        rms: root mean square of the truth, of its largest row.
    """

    rel_l2: float
    max_abs: float
    where: tuple[int, ...]
    p999: float
    cosine_gap: float
    rms: float


@dataclass(frozen=True)
class Budget:
    """Largest errors a proof allows."""

    rel_l2: float
    max_abs: float

    def holds(self, errors: Errors) -> bool:
        """Whether these errors are within; NaN never is."""
        return errors.rel_l2 <= self.rel_l2 and errors.max_abs <= self.max_abs


def budget(torch_float32: Errors, *, grant: float = 1) -> Budget:
    """What torch's own float32 error, measured in the same form on the same rows, allows.

    `grant` multiplies what is granted on top of it.
    """
    return Budget(
        rel_l2=3 * torch_float32.rel_l2 + grant * REL_L2_FLOOR,
        max_abs=3 * torch_float32.max_abs + grant * MAX_ABS_FLOOR * torch_float32.rms,
    )


def errors(got: NDArray[Any], truth: NDArray[np.float64]) -> Errors:
    """Errors of `got` (B, ...) against `truth` of the same shape.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.
    """
    if got.shape != truth.shape:
        raise ValueError(f"output has shape {got.shape}, its truth {truth.shape}")
    rms = math.sqrt(float(np.max(np.mean(_rows(truth) ** 2, axis=1))))
    finite = np.isfinite(got)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        return Errors(math.inf, math.inf, where, math.inf, math.inf, rms)
    gap = np.abs(got.astype(np.float64) - truth)
    worst = int(np.argmax(gap))
    return Errors(
        rel_l2=float(
            np.max(_ratio(np.linalg.norm(_rows(gap), axis=1), np.linalg.norm(_rows(truth), axis=1)))
        ),
        max_abs=float(gap.flat[worst]),
        where=tuple(int(i) for i in np.unravel_index(worst, gap.shape)),
        p999=float(np.quantile(gap, 0.999)),
        cosine_gap=_cosine_gap(got.astype(np.float64), truth),
        rms=rms,
    )


def _rows(array: NDArray[np.float64]) -> NDArray[np.float64]:
    return array.reshape(array.shape[0], -1)


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    safe = np.where(bottom > 0, bottom, 1.0)
    return np.where(bottom > 0, top / safe, np.where(top > 0, math.inf, 0.0))


def _cosine_gap(got: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    lengths = np.linalg.norm(got, axis=-1) * np.linalg.norm(truth, axis=-1)
    cosine = np.sum(got * truth, axis=-1) / np.where(lengths > 0, lengths, 1.0)
    return max(0.0, float(np.max(np.where(lengths > 0, 1.0 - cosine, 0.0))))
