"""Antialiased resize of uint8 pictures in fixed point, as PyTorch's CPU kernel behind torchvision has it.

Per axis: weights in float64, rounded to int16 at the finest precision that holds the largest of them; a sum
of integers; half a level added, shifted down, clamped. Width first, then height, uint8 between; an axis that
keeps its extent is left alone. The sums here are products of matrices in float64, where integers below 2^53
are exact in any order: the result depends on no BLAS and no CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from vitral.v1 import model_pb2 as pb
from vitral_engine.scaled import Box

Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_WEIGHT_LIMIT = 1 << 15
_MOST_PRECISION = 22

# Outputs of one matrix: more would multiply more zeros, fewer would cost more calls.
_BLOCK = 12
# Multiplications of one product. Small ones stay in the cache, and on the caller's own thread.
_PRODUCT = 1 << 17


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = -1/2."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1.0
    outer = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


KERNELS: Mapping[pb.Resample.ValueType, tuple[Kernel, float]] = MappingProxyType(
    {
        pb.RESAMPLE_BILINEAR: (_triangle, 1.0),
        pb.RESAMPLE_BICUBIC: (_cubic, 2.0),
        pb.RESAMPLE_LANCZOS: (_lanczos, 3.0),
    }
)
"""Interpolation to its kernel and the kernel's radius."""


@dataclass(frozen=True)
class _Block:
    """Neighbouring outputs of one axis.

    Attributes:
        outputs: which.
        inputs: the inputs they are made of.
        matrix: (outputs, inputs) integer weights.
    """

    outputs: slice
    inputs: slice
    matrix: NDArray[np.float64]


@dataclass(frozen=True)
class _Axis:
    """An axis of a picture: its inputs, and the part of them, in inputs, that is resized."""

    inputs: int
    start: float
    extent: float


def resize(
    rgb: NDArray[np.uint8],
    *,
    height: int,
    width: int,
    resample: pb.Resample.ValueType,
    box: Box | None = None,
) -> NDArray[np.uint8]:
    """Pixels (H, W, 3), or the part in a box of them, at another size: uint8 (height, width, 3).

    Raises:
        KeyError: `resample` is none of `KERNELS`.
    """
    left, top, right, bottom = box or (0, 0, rgb.shape[1], rgb.shape[0])
    across, down = _Axis(rgb.shape[1], left, right - left), _Axis(rgb.shape[0], top, bottom - top)
    planes = _across(rgb, across, width, resample) if across.extent != width else rgb.transpose(2, 0, 1)
    if down.extent != height:
        planes = _down(planes, down, height, resample)
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _across(
    rgb: NDArray[np.uint8], axis: _Axis, width: int, resample: pb.Resample.ValueType
) -> NDArray[np.uint8]:
    """(H, W, 3) to planes (3, H, width), some rows at a time."""
    height, source, channels = rgb.shape
    precision, blocks = _blocks(axis, width, resample)
    largest = max(block.matrix.size for block in blocks)
    rows = max(1, min(height, _PRODUCT // (channels * largest), _PRODUCT // max(source, width)))
    planes = np.empty((channels, height, width), np.uint8)
    pixels, sums = np.empty((channels, rows, source)), np.empty((channels, rows, width))
    for start in range(0, height, rows):
        count = min(rows, height - start)
        taken, given = pixels[:, :count], sums[:, :count]
        taken[...] = rgb[start : start + count].transpose(2, 0, 1)
        for block in blocks:
            np.matmul(taken[..., block.inputs], block.matrix.T, out=given[..., block.outputs])
        planes[:, start : start + count] = _levels(given, precision)
    return planes


def _down(
    planes: NDArray[np.uint8], axis: _Axis, height: int, resample: pb.Resample.ValueType
) -> NDArray[np.uint8]:
    """Planes (3, H, W) to (3, height, W), some columns at a time."""
    channels, _, width = planes.shape
    precision, blocks = _blocks(axis, height, resample)
    resized = np.empty((channels, height, width), np.uint8)
    for block in blocks:
        columns = max(1, _PRODUCT // block.matrix.size)
        for start in range(0, width, columns):
            part = slice(start, start + columns)
            sums = block.matrix @ planes[:, block.inputs, part].astype(np.float64)
            resized[:, block.outputs, part] = _levels(sums, precision)
    return resized


def _levels(sums: NDArray[np.float64], precision: int) -> NDArray[np.uint8]:
    """Fixed point to levels, rounded half up; `sums` is overwritten."""
    sums += 2.0 ** (precision - 1)
    sums *= 2.0**-precision
    # From 0 on, the cast to whole numbers rounds down.
    return np.clip(sums, 0, 255, out=sums).astype(np.uint8)


def _blocks(axis: _Axis, target: int, resample: pb.Resample.ValueType) -> tuple[int, list[_Block]]:
    first, weights = _weights(axis, target, resample)
    precision = _precision(float(weights.max()))
    scaled = weights * 2.0**precision
    whole = np.trunc(scaled + np.copysign(0.5, scaled))
    return precision, list(_cut(axis.inputs, first, whole))


def _cut(source: int, first: NDArray[np.int64], weights: NDArray[np.float64]) -> Iterator[_Block]:
    target, taps = weights.shape
    for start in range(0, target, _BLOCK):
        stop = min(start + _BLOCK, target)
        low, high = int(first[start]), min(int(first[stop - 1]) + taps, source)
        # Taps past the picture's edge have weight 0 and fall into columns that are cut off again.
        matrix = np.zeros((stop - start, high - low + taps))
        at = (first[start:stop] - low)[:, None] + np.arange(taps)
        np.put_along_axis(matrix, at, weights[start:stop], axis=1)
        yield _Block(slice(start, stop), slice(low, high), np.ascontiguousarray(matrix[:, : high - low]))


def _weights(
    axis: _Axis, target: int, resample: pb.Resample.ValueType
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First input of each output (target,), and the weights from there on (target, taps), of sum 1."""
    kernel, radius = KERNELS[resample]
    scale = axis.extent / target
    stretch = max(scale, 1.0)  # a smaller picture widens the kernel, a larger one does not narrow it
    support = radius * stretch
    taps = int(np.ceil(support)) * 2 + 1
    centre = axis.start + scale * (np.arange(target) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), axis.inputs) - first
    position = np.arange(taps)
    weights = kernel((position + first[:, None] - centre[:, None] + 0.5) * (1.0 / stretch))
    weights[position >= np.clip(count, 0, taps)[:, None]] = 0.0
    # In order, as the kernel adds them.
    return first, weights / np.cumsum(weights, axis=1)[:, -1:]


def _precision(largest: float) -> int:
    """Most fractional bits with which the largest weight is an int16."""
    precision = 0
    while precision < _MOST_PRECISION and int(0.5 + largest * (1 << (precision + 1))) < _WEIGHT_LIMIT:
        precision += 1
    return precision
