"""Element types between the wire and NumPy, and views of raw tensor bytes.

Two wire types have no NumPy type of their own: bfloat16 is widened to float32 (exactly, at the cost of a
copy); all others become read-only views of the bytes that came in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitral.errors import InvalidArgumentError
from vitral.v1 import tensor_pb2 as pb

Array = NDArray[Any]
"""A NumPy array of any element type."""

MAX_RANK = 8
"""Most axes of a tensor."""

MAX_EXTENT = 2**31 - 1
"""Largest extent of an axis."""

ITEM_BYTES: dict[int, int] = {
    pb.DATA_TYPE_FLOAT32: 4,
    pb.DATA_TYPE_FLOAT16: 2,
    pb.DATA_TYPE_BFLOAT16: 2,
    pb.DATA_TYPE_UINT8: 1,
    pb.DATA_TYPE_INT8: 1,
    pb.DATA_TYPE_UINT16: 2,
    pb.DATA_TYPE_INT64: 8,
}
"""Bytes of one element on the wire."""

_NUMPY: dict[int, str] = {
    pb.DATA_TYPE_FLOAT32: "<f4",
    pb.DATA_TYPE_FLOAT16: "<f2",
    pb.DATA_TYPE_BFLOAT16: "<u2",
    pb.DATA_TYPE_UINT8: "|u1",
    pb.DATA_TYPE_INT8: "|i1",
    pb.DATA_TYPE_UINT16: "<u2",
    pb.DATA_TYPE_INT64: "<i8",
}


def name_of(dtype: int) -> str:
    """The plain name of a wire type: `float32` for `DATA_TYPE_FLOAT32`; unknown numbers as they are."""
    try:
        return pb.DataType.Name(pb.DataType.ValueType(dtype)).removeprefix("DATA_TYPE_").lower()
    except ValueError:
        return f"unknown dtype {dtype}"


def dtype_named(name: str) -> pb.DataType.ValueType:
    """The wire type of a plain name such as `float16`.

    Raises:
        InvalidArgumentError: there is no such type; the message lists those there are.
    """
    key = f"DATA_TYPE_{name.upper()}"
    if key == "DATA_TYPE_UNSPECIFIED" or key not in pb.DataType.keys():  # noqa: SIM118  (not a dict)
        known = ", ".join(name_of(value) for value in ITEM_BYTES)
        raise InvalidArgumentError(f"unknown dtype {name!r}; known are {known}")
    return pb.DataType.Value(key)


def numpy_dtype(dtype: int) -> np.dtype[Any]:
    """The NumPy type that holds the wire type's bytes (uint16 for bfloat16)."""
    return np.dtype(_NUMPY[dtype])


def byte_count(dtype: int, shape: Sequence[int]) -> int:
    """Bytes of a tensor of this wire type and shape."""
    return math.prod(shape) * ITEM_BYTES[dtype]


def view(data: bytes | memoryview, dtype: int, shape: Sequence[int], *, what: str = "tensor") -> Array:
    """An array over `data`; no copy except for bfloat16.

    Args:
        data: raw little-endian bytes, row-major.
        dtype: wire type of the elements.
        shape: extent of every axis, none negative.
        what: name of the tensor in error messages.

    Raises:
        InvalidArgumentError: the dtype is unknown, an extent is negative, or the byte count does not fit.
    """
    if dtype not in ITEM_BYTES:
        raise InvalidArgumentError(f"{what} has {name_of(dtype)}")
    if len(shape) > MAX_RANK:
        raise InvalidArgumentError(f"{what} has {len(shape)} axes; the limit is {MAX_RANK}")
    sizes = tuple(int(extent) for extent in shape)
    said = " x ".join(map(str, sizes)) or "scalar"
    if any(extent < 0 for extent in sizes):
        raise InvalidArgumentError(f"{what} has a negative extent: {said}")
    if any(extent > MAX_EXTENT for extent in sizes):
        raise InvalidArgumentError(f"{what} has an extent over {MAX_EXTENT}: {said}")
    expected, size = byte_count(dtype, sizes), memoryview(data).nbytes
    if size != expected:
        message = f"{what} {said} {name_of(dtype)} takes {expected} bytes, but {size} came"
        raise InvalidArgumentError(message)
    try:
        array = np.frombuffer(data, dtype=numpy_dtype(dtype)).reshape(sizes)
    except ValueError:  # no elements, and still more than NumPy can count
        raise InvalidArgumentError(f"{what} has an impossible shape: {said}") from None
    if dtype == pb.DATA_TYPE_BFLOAT16:
        return (array.astype("<u4") << 16).view("<f4")
    return array
