"""What a graph of dynamic height and width is at one size: every extent, and all that follows from extents.

ONNX's inference over a whole graph loses extents that the graph computes. Here it is asked node by node, with
the values that are known by then, and what depends on extents and constants alone is worked out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vitral.tensors import Array
from vitral_export import weights
from vitral_export.onnx_constants import computed
from vitral_export.operations import BATCHES, Shape, extent_of

_EXACT = frozenset(
    {"Cast", "Concat", "ConstantOfShape", "Equal", "Expand", "Gather", "Identity", "Range", "Reshape"}
    | {"Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"}
    | {"Add", "Div", "Mul", "Neg", "Sub"}
)
"""Operators that are worked out: they move values, or round as IEEE 754 says, alike everywhere.

Interpolation, sines and the like stay steps, though all that they take be known.
"""


@dataclass(frozen=True)
class Sized:
    """A graph at one size of its images.

    Attributes:
        shapes: tensor name to its extents.
        constants: tensor name to its value, of what is worked out and is the same for every batch.
        extents: tensor name to its integers, of what is worked out and of that type.
    """

    shapes: dict[str, Shape]
    constants: dict[str, Array]
    extents: dict[str, Shape]


def sized(model: onnx.ModelProto, size: tuple[int, int], folder: Path | None = None) -> Sized:
    """The graph for images of this height and width, its external weights in `folder`, or loaded.

    Raises:
        ValueError: the nodes contradict each other, or an extent is no multiple of the batch.
    """
    first, second = (_pass(model, batch, size, folder) for batch in BATCHES)
    shapes: dict[str, Shape] = {}
    constants: dict[str, Array] = {}
    extents: dict[str, Shape] = {}
    for name, shape in first.shapes.items():
        shapes[name] = _extents(name, shape, second.shapes[name])
    for name, value in first.worked.items():
        other = second.worked[name]
        if value.dtype.kind == "i" and value.shape == other.shape:
            extents[name] = _extents(name, value.reshape(-1).tolist(), other.reshape(-1).tolist())
        if np.array_equal(value, other):
            constants[name] = value
        elif value.dtype.kind != "i":
            raise ValueError(f"{name} is {value.dtype} and depends on the number of images")
    return Sized(shapes, constants, extents)


def _extents(name: str, one: Sequence[int], other: Sequence[int]) -> Shape:
    try:
        return tuple(extent_of(*pair) for pair in zip(one, other, strict=True))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


class _Pass:
    """What is known of the tensors of a graph while its nodes are taken in order."""

    def __init__(self, model: onnx.ModelProto, batch: int, folder: Path | None) -> None:
        self.batch = batch
        self.opsets = list(model.opset_import)
        self.values = {item.name: weights.array(item, folder) for item in model.graph.initializer}
        self.types = {name: _type(array) for name, array in self.values.items()}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.worked: dict[str, Array] = {}

    def take(self, node: onnx.NodeProto) -> None:
        inputs = [name for name in node.input if name]
        if node.op_type == "Shape" and inputs[0] in self.shapes:
            told = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            self._work_out(
                node, np.array(self.shapes[inputs[0]][told.get("start", 0) : told.get("end")], np.int64)
            )
        elif node.op_type in _EXACT and all(name in self.values for name in inputs) and not self._grows(node):
            self._work_out(node, computed(node, [self.values[name] for name in inputs]))
        else:
            self._infer(node)

    def _grows(self, node: onnx.NodeProto) -> bool:
        """Whether a tensor is repeated for each image: a step, and too large to be worked out."""
        if node.op_type not in ("Expand", "Tile", "ConstantOfShape"):
            return False
        extents = self.values[node.input[-1]]
        return bool(((extents > 0) & (extents % self.batch == 0)).any())

    def _work_out(self, node: onnx.NodeProto, value: Array) -> None:
        name = node.output[0]
        self.values[name] = self.worked[name] = value
        self.types[name], self.shapes[name] = _type(value), value.shape

    def _infer(self, node: onnx.NodeProto) -> None:
        versions = {item.domain: item.version for item in self.opsets}
        schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
        types = {name: self.types[name] for name in node.input if name in self.types}
        data = {
            name: numpy_helper.from_array(self.values[name], name)
            for name in node.input
            if name in self.values and self.values[name].dtype.kind == "i"
        }
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self.opsets
            )
        except (onnx.shape_inference.InferenceError, KeyError, RuntimeError) as error:
            said = " ".join(str(error).split())[:300]
            raise ValueError(f"{node.name}: shapes cannot be told: {said}") from error
        for name, told in found.items():
            self.types[name] = told
            dims = told.tensor_type.shape.dim
            if told.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
                self.shapes[name] = tuple(dim.dim_value for dim in dims)


def _pass(model: onnx.ModelProto, batch: int, size: tuple[int, int], folder: Path | None) -> _Pass:
    taken = model.graph.input[0]
    known = _Pass(model, batch, folder)
    sides: Mapping[str, int] = {"batch": batch, "height": size[0], "width": size[1]}
    dims = taken.type.tensor_type.shape.dim
    if missing := [dim.dim_param for dim in dims if dim.dim_param and dim.dim_param not in sides]:
        raise ValueError(f"the input {taken.name} has an extent {missing[0]}, which is none of {list(sides)}")
    shape = tuple(sides[dim.dim_param] if dim.dim_param else dim.dim_value for dim in dims)
    known.shapes[taken.name] = shape
    known.types[taken.name] = helper.make_tensor_type_proto(taken.type.tensor_type.elem_type, shape)
    for node in model.graph.node:
        known.take(node)
    return known


def _type(array: Array) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
