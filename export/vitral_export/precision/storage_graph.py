"""The graph whose matrices are stored as float16: one Cast each, worked out as onnxruntime opens it."""

from __future__ import annotations

import numpy as np
import onnx

from vitral_export.precision.editor import Editor
from vitral_export.precision.half_graph import CENTRE_NAME, SCALE_NAME, SUFFIX
from vitral_export.precision.rounding import PIXEL_SCALE, half, is_matrix

_FLOAT = onnx.TensorProto.FLOAT


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with float16 matrices; it computes in float32.

    Raises:
        ProofError: a weight is beyond float16.
    """
    edit = Editor(model)
    factors = _factors(model, edit)
    new: dict[str, str] = {}
    for item in model.graph.initializer:
        array = edit.floats(item.name)
        if array is not None and is_matrix(array):
            name = item.name + SUFFIX
            edit.constant(name, half(array, item.name, factor=factors.get(item.name, 1.0)))
            # Another name than the constant had: where it is scaled, it is another tensor.
            new[item.name] = edit.add("Cast", [name], [f"{item.name}.float"], f"{name}/Cast", to=_FLOAT)
    for node in model.graph.node:
        edit.keep(node, takes=[new.get(name, name) for name in node.input], gives=node.output)
        if factors and node.op_type == "Sub" and node.input[1] == CENTRE_NAME:
            by = edit.constant(SCALE_NAME, np.array(1 / PIXEL_SCALE, np.float32))
            centred = node.output[0]
            new[centred] = edit.add("Mul", [centred, by], [f"{centred}_scaled"], "pixels/Mul")
    return edit.finish()


def _factors(model: onnx.ModelProto, edit: Editor) -> dict[str, float]:
    """By what the weights that take centred pixels are multiplied; nothing where they stay float32."""
    centred = {node.output[0] for node in model.graph.node if CENTRE_NAME in node.input}
    taken = [node.input[1] for node in model.graph.node if node.input and node.input[0] in centred]
    arrays = {name: edit.floats(name) for name in taken}
    return {name: PIXEL_SCALE for name, array in arrays.items() if array is not None and is_matrix(array)}
