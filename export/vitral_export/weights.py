"""One file of weights for every graph of a version: `weights.bin`, as ONNX external data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, numpy_helper

from vitral.spec import WEIGHTS

_WEIGHTS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8)
_PAGE = 4096  # onnxruntime maps a tensor from the file only where it starts on a page


def write(folder: Path, models: Sequence[onnx.ModelProto]) -> None:
    """Writes weights.bin and points the models' initialisers at it.

    Tensors of equal name are one tensor. Scalars and int64 tensors stay in the graph: they are shapes and
    constants, which a reader of the graph and shape inference want to see.
    """
    placed: dict[str, tuple[int, bytes]] = {}
    end = 0
    for model in models:
        for item in model.graph.initializer:
            if not _is_weight(item):
                continue
            data = np.ascontiguousarray(numpy_helper.to_array(item)).tobytes()
            if item.name not in placed:
                start = -(-end // _PAGE) * _PAGE
                placed[item.name] = (start, data)
                end = start + len(data)
            elif placed[item.name][1] != data:
                raise ValueError(f"two tensors are named {item.name}")
            _point(item, offset=placed[item.name][0], length=len(data))
    with (folder / WEIGHTS).open("wb") as file:
        for start, data in placed.values():
            file.write(bytes(start - file.tell()))
            file.write(data)


def _is_weight(item: TensorProto) -> bool:
    return item.data_type in _WEIGHTS and len(item.dims) > 0


def _point(item: TensorProto, *, offset: int, length: int) -> None:
    for field in ("float_data", "raw_data"):
        item.ClearField(field)
    item.raw_data = b""  # set_external_data wants the field to be there
    external_data_helper.set_external_data(item, location=WEIGHTS, offset=offset, length=length)
    item.ClearField("raw_data")
