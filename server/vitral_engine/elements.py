"""Float rows to the element types of the wire: unit length, float16, bfloat16, int8 with a scale a row."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from vitral.selection import Selection
from vitral.tensors import Array, numpy_dtype
from vitral.v1 import tensor_pb2
from vitral_engine.half import cast

Made: TypeAlias = tuple[Array] | tuple[Array, Array]
"""Values, and for int8 their scales: what goes on the wire, each contiguous."""


def made(rows: Array, selection: Selection) -> Made:
    """Rows (..., D) in the form that is wanted; the rows themselves where nothing has to be done."""
    if selection.l2_normalize:
        rows = unit(rows)
    if selection.dtype == tensor_pb2.DATA_TYPE_INT8:
        return int8(rows)
    if selection.dtype == tensor_pb2.DATA_TYPE_BFLOAT16:
        return (bfloat16(rows),)
    dtype = numpy_dtype(selection.dtype)
    if rows.dtype == dtype and rows.flags.c_contiguous:
        return (rows,)
    values = np.empty(rows.shape, dtype)
    cast(rows, values)
    return (values,)


def unit(rows: Array) -> Array:
    """Rows (..., D) at unit L2 norm in float32, the norm taken in float64: no square leaves its range.

    A row of zeros stays zeros; one that is not finite becomes NaN, or zeros beside its NaN.
    """
    norm = np.sqrt(np.einsum("...d,...d->...", rows, rows, dtype=np.float64))[..., None]  # ... D -> ... 1
    norm[norm == 0] = 1
    values = np.empty(rows.shape, np.float32)
    with np.errstate(invalid="ignore"):
        np.divide(rows, norm, out=values, casting="same_kind")
    return values


def bfloat16(rows: Array) -> Array:
    """The upper halves of float32 as uint16, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(rows, np.float32).reshape(rows.shape).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    values: Array = rounded.astype("<u2")
    nan = np.isnan(rows)
    if nan.any():
        values[nan] = bits[nan] >> 16 | 0x40  # quiet: what is left of its bits may be those of infinity
    return values


def int8(rows: Array) -> tuple[Array, Array]:
    """Integers (..., D) from -127 to 127 and float32 scales (...): x is about integer * scale.

    The scale is max |x| / 127, so that no value is off by more than half of it. A row of zeros has scale 0,
    one that is not finite NaN, and zeros for integers.
    """
    wide = np.asarray(rows, np.float32)
    largest = np.maximum(wide.max(axis=-1), -wide.min(axis=-1))  # ... D -> ...
    with np.errstate(invalid="ignore"):
        scales = np.asarray(np.where(np.isfinite(largest), largest / np.float32(127), np.nan), "<f4")
    step = scales[..., None]
    steps = np.zeros(wide.shape, np.float32)
    np.divide(wide, step, out=steps, where=step > 0)
    np.rint(steps, out=steps)
    np.clip(steps, -127, 127, out=steps)  # where the scale is subnormal, and coarse
    return steps.astype(np.int8), scales
