"""From resized pixels to the model's input: rescale, subtract the mean, divide by the deviation.

Each function has the order of roundings of one library. What depends on the byte alone is a table of 256
values a channel: exact and cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitral.v1 import model_pb2 as pb

Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]
"""Pixels after the resize, (..., h, w, 3)."""

Normalise: TypeAlias = Callable[[Pixels], NDArray[np.float32]]
"""Pixels (..., h, w, 3) to the float32 input (..., 3, h, w)."""

_BYTES = np.arange(256)


def pillow(told: pb.Preprocessing) -> Normalise:
    """(u * factor - mean) / std, the product rounded from float64."""
    mean, std = _columns(told)
    return _by_table(((_BYTES * told.rescale_factor).astype(np.float32) - mean) / std)


def torchvision(told: pb.Preprocessing) -> Normalise:
    """(u - mean / factor) / (std / factor)."""
    levels = np.float32(1.0 / told.rescale_factor)
    mean, std = _columns(told)
    return _by_table((_BYTES.astype(np.float32) - mean * levels) / (std * levels))


def quotient(told: pb.Preprocessing) -> Normalise:
    """(u / 255 - mean) / std."""
    mean, std = _columns(told)
    return _by_table((_BYTES.astype(np.float32) / np.float32(255) - mean) / std)


def plain(told: pb.Preprocessing) -> Normalise:
    """(x - mean) / std of pixels that are floats."""
    mean, std = _columns(told)

    def normalise(pixels: Pixels) -> NDArray[np.float32]:
        planes = np.moveaxis(pixels, -1, -3)  # h w 3 -> 3 h w
        found: NDArray[np.float32] = (planes - mean[..., None]) / std[..., None]
        return np.ascontiguousarray(found)

    return normalise


def _by_table(table: NDArray[np.float32]) -> Normalise:
    """The value of each byte, (3, 256), looked up."""

    def normalise(pixels: Pixels) -> NDArray[np.float32]:
        planes = [values[pixels[..., channel]] for channel, values in enumerate(table)]
        return np.stack(planes, axis=-3)

    return normalise


def _columns(told: pb.Preprocessing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation as (3, 1)."""
    mean, std = (np.array(values, dtype=np.float32)[:, None] for values in (told.mean, told.std))
    return mean, std
