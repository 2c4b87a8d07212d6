"""A model's outputs into the arrays of a shard: views taken, cast, and nothing that is not a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vitral.errors import ImageError
from vitral.tensors import Array
from vitral_engine import half
from vitral_extract.layout import Column


def fill(
    outputs: Mapping[str, Array], places: Sequence[int], columns: Sequence[Column], rows: Mapping[str, Array]
) -> dict[int, ImageError]:
    """Row i of the outputs (B, ...) to row places[i] of the arrays (rows, ...), in the arrays' own type.

    Returns the errors of the rows that the type cannot hold, by place: cause `not_finite` where the model
    itself gave NaN or Inf, `overflow` where the type is too narrow. What stands in their rows means nothing.
    """
    errors: dict[int, ImageError] = {}
    contiguous = places[-1] - places[0] + 1 == len(places)
    for column in columns:
        target = rows[column.name]
        part = column.of(outputs[column.output][: len(places)])
        if not _fits(part, target.dtype):
            errors |= _misfits(part, places, column, target.dtype)
        # Overflow is dealt with above.
        if contiguous:
            half.cast(part, target[places[0] : places[-1] + 1])
        else:
            for place, row in zip(places, part, strict=True):
                half.cast(row, target[place])
    return errors


def _fits(part: Array, dtype: np.dtype[np.generic]) -> bool:
    most = np.finfo(dtype.name).max
    return bool(part.max() <= most and part.min() >= -most)  # NaN fits nowhere


def _misfits(
    part: Array, places: Sequence[int], column: Column, dtype: np.dtype[np.generic]
) -> dict[int, ImageError]:
    errors: dict[int, ImageError] = {}
    for place, row in zip(places, part, strict=True):
        if bad := int(np.count_nonzero(~np.isfinite(row))):
            message = f"the model gives NaN or Inf in {bad} of {row.size} elements of {column.name}"
            errors[place] = ImageError(message, cause="not_finite")
        elif not _fits(row, dtype):
            most, largest = np.finfo(dtype.name).max, float(np.abs(row).max())
            message = f"{column.name} has {largest:.6g}, over {most}, the largest {dtype}: take float32"
            errors[place] = ImageError(message, cause="overflow")
    return errors
