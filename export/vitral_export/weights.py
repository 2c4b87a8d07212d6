"""Weights as ONNX external data: one file for every graph of a version, mapped where it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from vitral.spec import WEIGHTS
from vitral.tensors import Array

_WEIGHTS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8)
_PAGE = 4096  # onnxruntime maps a tensor from the file only where it starts on a page


def array(item: TensorProto, folder: Path | None) -> Array:
    """The values of an initialiser: mapped from the file in `folder` where they are external.

    Raises:
        ValueError: the file is too short, or says another length than the extents do.
    """
    if folder is None or not external_data_helper.uses_external_data(item):
        return numpy_helper.to_array(item)
    told = external_data_helper.ExternalDataInfo(item)
    dtype, shape = helper.tensor_dtype_to_np_dtype(item.data_type), tuple(item.dims)
    size = dtype.itemsize * int(np.prod(shape))
    if told.length is not None and told.length != size:
        raise ValueError(f"{item.name} has {size} bytes, its place in {told.location} {told.length}")
    if not size:
        return np.empty(shape, dtype)
    return np.memmap(folder / told.location, dtype, "r", offset=told.offset or 0, shape=shape)


def digest(values: Array) -> bytes:
    """sha256 of the elements in their order."""
    return hashlib.sha256(np.ascontiguousarray(values).data).digest()


def write(folder: Path, models: Sequence[onnx.ModelProto], *, scratch: Path | None) -> None:
    """Writes weights.bin and points the models' initialisers at it.

    Tensors of equal bytes are stored once, whatever their names. Scalars and int64 tensors stay in the
    graph: they are shapes and constants, which a reader of the graph and shape inference want to see.

    Args:
        folder: the version folder.
        models: graphs whose weights are inside or in files of `scratch`.
        scratch: another folder; None where all weights are inside.
    """
    places: dict[tuple[int, bytes], int] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for item in (item for model in models for item in model.graph.initializer if is_weight(item)):
            values = np.ascontiguousarray(array(item, scratch))
            mark = values.nbytes, digest(values)
            if mark not in places:
                file.write(bytes(-file.tell() % _PAGE))
                places[mark] = file.tell()
                file.write(values.data)
            _point(item, offset=places[mark], length=values.nbytes)


def is_weight(item: TensorProto) -> bool:
    """Whether an initialiser belongs into the file."""
    return item.data_type in _WEIGHTS and len(item.dims) > 0


def bring_in(item: TensorProto, folder: Path) -> None:
    """Takes the values of an external initialiser back into the graph."""
    item.CopyFrom(numpy_helper.from_array(np.array(array(item, folder)), item.name))


def _point(item: TensorProto, *, offset: int, length: int) -> None:
    for field in ("float_data", "raw_data"):
        item.ClearField(field)
    item.raw_data = b""  # set_external_data wants the field to be there
    external_data_helper.set_external_data(item, location=WEIGHTS, offset=offset, length=length)
    item.ClearField("raw_data")
