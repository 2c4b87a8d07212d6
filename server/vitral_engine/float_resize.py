"""Resizes whose pixels are float32: TensorFlow's bilinear, and PyTorch's antialiased kernel on floats.

Both are written step by step in the roundings of their library, so that the result depends on no BLAS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from vitral.v1 import model_pb2 as pb

Floats = NDArray[np.float32]

_ROWS = 64  # rows of the picture that are looked at at a time
_GROUP = 4


def neighbours(rgb: NDArray[np.uint8], *, height: int, width: int) -> Floats:
    """Pixels (H, W, 3) at another size by TensorFlow's `tf.image.resize`: float32 (height, width, 3).

    Bilinear between the four nearest pixels by half-pixel centres, whatever the scale: a smaller picture is
    not averaged.
    """
    top, bottom, down = _between(rgb.shape[0], height)
    left, right, across = _between(rgb.shape[1], width)
    upper, lower = (
        _mixed(rows[:, left], rows[:, right], across[:, None]) for rows in (rgb[top], rgb[bottom])
    )
    return _mixed(upper, lower, down[:, None, None])


def _between(inputs: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """The pixels before and after each output (target,), and how far it is from the first to the second."""
    half = np.float32(0.5)
    at = (np.arange(target, dtype=np.float32) + half) * (np.float32(inputs) / np.float32(target)) - half
    before = np.floor(at)
    first = np.maximum(before, 0).astype(np.int64)
    return first, np.minimum(np.ceil(at).astype(np.int64), inputs - 1), at - before


def _mixed(one: NDArray[np.generic], other: NDArray[np.generic], share: Floats) -> Floats:
    start = one.astype(np.float32)
    mixed: Floats = start + (other.astype(np.float32) - start) * share
    return mixed


def _fused(one: Floats, other: Floats | np.float32, added: Floats | np.float32) -> Floats:
    """`one * other + added`, rounded once, as CPUs with fused multiply-add have it."""
    product = np.multiply(one, other, dtype=np.float64)  # exact
    return (product + added).astype(np.float32)


def _triangle(x: Floats) -> Floats:
    return np.maximum(np.float32(0), np.float32(1) - np.abs(x))


def _cubic(x: Floats) -> Floats:
    """Keys' cubic with a = -1/2."""
    x = np.abs(x)
    inner = _fused(_fused(x, np.float32(1.5), np.float32(-2.5)) * x, x, np.float32(1))
    outer = _fused(x, np.float32(-0.5), np.float32(2.5))
    outer = _fused(_fused(outer, x, np.float32(-4)), x, np.float32(2))
    return np.where(x < 1, inner, np.where(x < 2, outer, np.float32(0)))


KERNELS: Mapping[pb.Resample.ValueType, tuple[Callable[[Floats], Floats], int]] = MappingProxyType(
    {pb.RESAMPLE_BILINEAR: (_triangle, 1), pb.RESAMPLE_BICUBIC: (_cubic, 2)}
)
"""Interpolation of `antialiased` to its kernel and the kernel's radius."""


@dataclass(frozen=True)
class _Taps:
    """What each output of one axis is made of, tap by tap.

    Attributes:
        inputs: (taps, target) indices.
        weights: (taps, target), of sum 1; 0 where an index means nothing.
        apart: (taps, target), whether a product is rounded before it is added.
    """

    inputs: NDArray[np.int64]
    weights: Floats
    apart: NDArray[np.bool_]


def antialiased(
    rgb: NDArray[np.uint8], levels: Floats, *, height: int, width: int, resample: pb.Resample.ValueType
) -> Floats:
    """Pixels (H, W, 3) as floats and then resized, as PyTorch's CPU kernel does: (height, width, 3).

    Args:
        rgb: the pixels.
        levels: the float of each byte, (256,).
        height: rows wanted.
        width: columns wanted.
        resample: one of `KERNELS`.
    """
    if rgb.shape[1] == width:
        across = levels[rgb]
    else:
        taps = _taps(rgb.shape[1], width, resample)
        across = np.empty((rgb.shape[0], width, rgb.shape[2]), np.float32)
        for start in range(0, rgb.shape[0], _ROWS):
            part = slice(start, start + _ROWS)
            columns = np.ascontiguousarray(rgb[part].transpose(1, 0, 2))  # H W 3 -> W H 3
            across[part] = _summed(levels[columns], taps).transpose(1, 0, 2)
    return across if rgb.shape[0] == height else _summed(across, _taps(rgb.shape[0], height, resample))


def _summed(values: Floats, taps: _Taps) -> Floats:
    """The first axis of values (N, ...) resized: one multiplication and addition a tap, in their order."""
    shape = (-1, *[1] * (values.ndim - 1))
    found: Floats = values[taps.inputs[0]] * taps.weights[0].reshape(shape)
    for inputs, weights, apart in zip(taps.inputs[1:], taps.weights[1:], taps.apart[1:], strict=True):
        taken, weight = values[inputs], weights.reshape(shape)
        if apart.all():
            taken *= weight
            found += taken
            continue
        fused = _fused(taken, weight, found)
        found = np.where(apart.reshape(shape), taken * weight + found, fused) if apart.any() else fused
    return found


def _taps(inputs: int, target: int, resample: pb.Resample.ValueType) -> _Taps:
    kernel, radius = KERNELS[resample]
    scale = np.float32(inputs) / np.float32(target)
    stretch = max(float(scale), 1.0)  # a smaller picture widens the kernel, a larger one does not narrow it
    support = np.float32(radius * stretch)
    most = int(np.ceil(support)) * 2 + 1
    centre = (float(scale) * (np.arange(target) + 0.5)).astype(np.float32)
    low, high = ((centre + side).astype(np.float64) + 0.5 for side in (-support, support))
    first = np.maximum(low.astype(np.int64), 0)
    count = np.clip(np.minimum(high.astype(np.int64), inputs) - first, 0, most)
    position = np.arange(most)[:, None]
    at = position + first
    gap = (at.astype(np.float32) - centre).astype(np.float64) + 0.5
    weights = kernel((gap * float(np.float32(1.0 / stretch))).astype(np.float32))
    weights[position >= count] = 0
    weights /= np.cumsum(weights, axis=0, dtype=np.float32)[-1]  # in order, as the kernel adds them
    # The kernel's products after the first are made four at a time, and then added; only the rest is fused.
    apart = (position <= (count - 1) // _GROUP * _GROUP) | (position >= count)  # behind them all are zeros
    return _Taps(np.minimum(at, inputs - 1), weights, apart)
