"""The graph in float16: weights rounded once, steps in float16, casts at the borders.

What stays float32: inputs and outputs, sums over an axis (LayerNormalization says itself that it sums in
float32), and what depends on no value of the input, such as positions interpolated to its size.
"""

from __future__ import annotations

import numpy as np
import onnx

from vitral_export.onnx_shapes import elem_types
from vitral_export.precision.editor import Editor
from vitral_export.precision.rounding import PIXEL_SCALE, half

SUFFIX = ".half"
"""What the name of a float16 tensor ends with, where a float32 one has its name."""

WIDE = frozenset({"ReduceL2", "ReduceMean", "ReduceSum"})
"""Operators that are left in float32."""

CENTRE_NAME, SCALE_NAME = "pixels_centre", "pixels_scale"

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in float16; its input and its outputs keep name and type.

    Raises:
        ProofError: a weight is beyond float16.
    """
    return _Half(model).converted()


class _Half:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._types = elem_types(model)
        self._edit = Editor(model)
        # Tensors that the new graph has in float16, and what it calls them.
        self._half: dict[str, str] = {}
        # Tensors that it has in float32 too.
        self._float: dict[str, str] = {item.name: item.name for item in model.graph.initializer}
        self._float |= {item.name: item.name for item in model.graph.input}
        self._moving = {item.name for item in model.graph.input}
        self._outputs = {item.name for item in model.graph.output}
        self._centred = ""

    def converted(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            if node.op_type == "Shape" or not self._moving.intersection(node.input):
                self._unmoved(node)
                continue
            self._moving.update(node.output)
            if node.op_type in WIDE:
                self._in_float32(node)
            else:
                self._in_float16(node)
        for item in self._model.graph.output:
            self._cast(self._narrow(item.name), item.name, _FLOAT)
        return self._edit.finish()

    def _unmoved(self, node: onnx.NodeProto) -> None:
        """A node that takes no value of the input, though maybe its extents."""
        asks = node.op_type == "Shape"  # of any tensor, whatever it is called by now
        takes = [self._half.get(name, name) if asks else name for name in node.input]
        self._edit.keep(node, takes=takes, gives=node.output)
        self._float |= {name: name for name in node.output}

    def _in_float16(self, node: onnx.NodeProto) -> None:
        factor = PIXEL_SCALE if node.input[0] == self._centred else 1.0
        takes = [self._narrow(name, factor if place == 1 else 1.0) for place, name in enumerate(node.input)]
        for name in node.output:
            self._half[name] = self._named(name)
        new = self._edit.keep(node, takes=takes, gives=[self._half[name] for name in node.output])
        for item in new.attribute:
            if node.op_type == "Cast" and item.name == "to" and item.i == _FLOAT:
                item.i = _HALF
        if node.op_type == "Sub" and node.input[1] == CENTRE_NAME:
            self._scale_pixels(node.output[0])

    def _scale_pixels(self, name: str) -> None:
        self._centred, taken = name, self._half[name]
        scale = half(np.array(1 / PIXEL_SCALE, np.float32), SCALE_NAME)
        by = self._edit.constant(SCALE_NAME, scale)
        self._half[name] = self._edit.add("Mul", [taken, by], [f"{name}_scaled"], "pixels/Mul")

    def _in_float32(self, node: onnx.NodeProto) -> None:
        takes = [self._widened(name) for name in node.input]
        self._edit.keep(node, takes=takes, gives=[f"{name}.float" for name in node.output])
        for name in node.output:
            self._half[name] = self._named(name)
            self._cast(f"{name}.float", self._half[name], _HALF)

    def _narrow(self, name: str, factor: float = 1.0) -> str:
        """The name of a tensor as a node in float16 takes it: rounded, where it is a float32 one."""
        if name in self._half or self._types.get(name) != _FLOAT:
            return self._half.get(name, name)
        array = self._edit.floats(name)
        if array is not None:
            return self._edit.constant(name + SUFFIX, half(array, name, factor=factor))
        self._half[name] = self._cast(name, name + SUFFIX, _HALF)
        return self._half[name]

    def _widened(self, name: str) -> str:
        """The name of a tensor as a node in float32 takes it."""
        if self._types.get(name) == _FLOAT and name not in self._float:
            self._float[name] = self._cast(self._half[name], f"{name}.wide", _FLOAT)
        return self._float.get(name, name)

    def _named(self, name: str) -> str:
        """What a tensor is called inside: an output's name is that of its float32 form."""
        return name + SUFFIX if name in self._outputs else name

    def _cast(self, takes: str, gives: str, to: int) -> str:
        return self._edit.add("Cast", [takes], [gives], f"{gives}/Cast", to=to)
