"""Faults of a graph of dynamic height and width: a Hugging Face ViT that interpolates its positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from benchmarks.faults.planting import BOTH, FLOAT, UINT8, Fault, Written

MODEL = "hf-vit-of-any-size"
"""The model that they are planted into, one of `benchmarks.faults.models.SIZED`."""

TRACED = (16, 48)
"""Height and width of the example that it is traced with."""


def _resize(written: Written) -> onnx.NodeProto:
    return next(node for node in written.graph.node if node.op_type == "Resize")


def _with(name: str, value: object) -> Callable[[Written], None]:
    def change(written: Written) -> None:
        written.change_attribute(_resize(written).name, name, value)

    return change


def _sides_swapped(written: Written) -> None:
    """W/P x H/P positions in place of H/P x W/P: as many, in another order."""
    node = _resize(written)
    written.set_constant("swapped", np.array([0, 1, 3, 2], np.int64))
    written.put_before(node.name, "Gather", [node.input[3], "swapped"], "other_sizes", {"axis": 0})
    node.input[3] = "other_sizes"


def _table_turned(written: Written) -> None:
    node = _resize(written)
    written.put_before(node.name, "Transpose", [node.input[0]], "turned", {"perm": [0, 1, 3, 2]})
    node.input[0] = "turned"


def _grid_turned(written: Written) -> None:
    """The grid of patches column by column, which a square one alone would show in its positions only."""
    node = next(node for node in written.graph.node if node.op_type == "Conv")
    written.put_behind(node.name, "Transpose", attributes={"perm": [0, 1, 3, 2]})


def _native_size_baked(written: Written) -> None:
    node = _resize(written)
    written.set_constant("native_sizes", np.array([1, 32, 4, 4], np.int64))
    node.input[3] = "native_sizes"


def _traced_positions_baked(written: Written) -> None:
    """The positions of the traced size as a constant: right there, wrong at its twin without failing."""
    node = _resize(written)
    model = onnx.load(written.folder / FLOAT)
    model.graph.output.append(helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = np.zeros((1, 3, *TRACED), np.float32)
    (positions,) = session.run([node.output[0]], {"pixel_values": rows})
    written.set_constant(node.output[0], np.asarray(positions))
    written.graph.node.remove(node)


def _frozen_height(written: Written) -> None:
    dims = written.graph.input[0].type.tensor_type.shape.dim
    next(dim for dim in dims if dim.dim_param == "height").dim_value = 32


FAULTS = (
    Fault("bilinear", MODEL, "positions interpolated linearly", BOTH, _with("mode", "linear")),
    Fault(
        "align_corners",
        MODEL,
        "positions interpolated from corner to corner",
        BOTH,
        _with("coordinate_transformation_mode", "align_corners"),
    ),
    Fault("coefficient", MODEL, "a cubic of -0.5 for -0.75", BOTH, _with("cubic_coeff_a", -0.5)),
    Fault("antialias", MODEL, "positions averaged where there are fewer", BOTH, _with("antialias", 1)),
    Fault("sides_swapped", MODEL, "height and width of the positions swapped", BOTH, _sides_swapped),
    Fault("sides_swapped_uint8", MODEL, "the same in the uint8 graph only", (UINT8,), _sides_swapped),
    Fault("table_turned", MODEL, "rows and columns of the position table swapped", BOTH, _table_turned),
    Fault("sized_grid_turned", MODEL, "rows and columns of the patch grid swapped", BOTH, _grid_turned),
    Fault("native_size", MODEL, "positions of the native size for every size", BOTH, _native_size_baked),
    Fault(
        "traced_positions",
        MODEL,
        "positions of the traced size as a constant",
        BOTH,
        _traced_positions_baked,
    ),
    Fault("height", MODEL, "height frozen in the signature", BOTH, _frozen_height),
)
"""Those of interpolation, of its sizes, and of what a graph remembers of one size."""
