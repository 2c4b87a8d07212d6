"""Readers of ONNX operators: each writes one node as steps, with defaults filled in and shapes made plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import onnx

from vitral_export.builder import Builder
from vitral_export.operations import Extent, Operand, Operation, Shape, Weight


class Reading(Protocol):
    """What is known while the nodes of a graph are read in order.

    Attributes:
        known: tensor name to the operand behind it.
        shapes: tensor name to its extents.
        builder: takes the steps.
    """

    known: dict[str, Operand]
    shapes: dict[str, Shape]
    builder: Builder

    def operands(self, node: onnx.NodeProto) -> list[Operand]:
        """The tensors that a node takes."""

    def weight(self, name: str) -> Weight | None:
        """The constant of this name."""

    def integers(self, node: onnx.NodeProto, index: int) -> Shape:
        """Extents that a node takes as its operand number `index`."""

    def shape(self, node: onnx.NodeProto) -> Shape:
        """Extents of a node's result."""

    def numbers(self, name: str) -> np.dtype[Any]:
        """Element type of a tensor."""


def plain(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    """The step of a node whose attributes need no completing."""
    attributes = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return reading.builder.add(
        node.op_type,
        reading.operands(node),
        name=node.name,
        shape=reading.shape(node),
        attributes=attributes,
    )


def _conv(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    weight = reading.weight(node.input[1])
    kernel = weight.array.shape[2:] if weight is not None else ()
    ones = [1] * len(kernel)
    full = {"strides": ones, "pads": [0, 0] * len(kernel), "dilations": ones, "group": 1, **given}
    if full.get("auto_pad") == b"NOTSET":
        del full["auto_pad"]
    if tuple(full.get("kernel_shape", kernel)) == tuple(kernel):
        full.pop("kernel_shape", None)
    return plain(reading, node, full)


def _reshape(reading: Reading, node: onnx.NodeProto, _: Mapping[str, Any]) -> Operand:
    """A reshape, squeeze or unsqueeze: the same values, so that the extents of the result say everything."""
    source = reading.known[node.input[0]]
    return reading.builder.add("Reshape", [source], name=node.name, shape=reading.shape(node))


def _expand(reading: Reading, node: onnx.NodeProto, _: Mapping[str, Any]) -> Operand:
    source = reading.known[node.input[0]]
    target, mine = reading.integers(node, 1), reading.builder.shape_of(source)
    if len(target) < len(mine):
        raise ValueError(f"{node.name} expands {mine} to {target}")
    mine = (1,) * (len(target) - len(mine)) + mine  # as broadcasting has it
    shape = tuple(own if extent in (1, -1) else extent for own, extent in zip(mine, target, strict=True))
    if shape != reading.shape(node):
        raise ValueError(f"{node.name} expands {mine} to {target}, which is {reading.shape(node)}")
    return reading.builder.add("Expand", [source], name=node.name, shape=shape, attributes={"shape": shape})


def _transpose(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    backwards = list(reversed(range(len(reading.shape(node)))))
    return plain(reading, node, {"perm": backwards, **given})


def _gemm(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    """A x B + C, as a product and a sum."""
    rows, weight, *rest = reading.operands(node)
    factors = [given.get("alpha", 1.0), *([given.get("beta", 1.0)] if rest else [])]
    if not isinstance(weight, Weight) or given.get("transA", 0) or any(factor != 1 for factor in factors):
        raise ValueError(f"{node.name} is a Gemm of a form that linear layers do not have: {dict(given)}")
    held = weight if given.get("transB", 0) else Weight(weight.name, weight.array.T)
    bias = rest[0] if rest else None
    if bias is not None and not isinstance(bias, Weight):
        raise ValueError(f"{node.name} adds a bias that is computed in the graph")
    return reading.builder.linear(rows, held, bias, name=node.name, shape=reading.shape(node))


def _on_axis(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    """An operator with an axis, which counts from the front here."""
    default = 0 if node.op_type == "Gather" else -1
    return plain(reading, node, {**given, "axis": _axis(reading, node, given.get("axis", default))})


def _axis(reading: Reading, node: onnx.NodeProto, axis: Extent) -> int:
    """An axis of a node's first operand, counted from the front."""
    rank = len(reading.builder.shape_of(reading.known[node.input[0]]))
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise ValueError(f"{node.name} works on axis {axis} of {rank}")
    return axis % rank


def _layer_norm(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    full = {"epsilon": float(np.float32(1e-5)), "stash_type": 1, **given}
    return _on_axis(reading, node, full)


def _gelu(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    return plain(reading, node, {"approximate": b"none", **given})


def _slice(reading: Reading, node: onnx.NodeProto, _: Mapping[str, Any]) -> Operand:
    source = reading.known[node.input[0]]
    parts = [reading.integers(node, index) for index in range(1, len(node.input))]
    if len(parts) < 3 or any(len(part) != 1 for part in parts) or parts[3:] not in ([], [(1,)]):
        raise ValueError(f"{node.name} slices {parts}, start, end and axis of one slice are expected")
    (start,), (end,), (along,) = parts[:3]
    axis = _axis(reading, node, along)
    size = reading.builder.shape_of(source)[axis]
    if not isinstance(start, int) or not isinstance(end, int) or not isinstance(size, int):
        raise ValueError(f"{node.name} slices the batch")
    first, last, _step = slice(start, end).indices(size)
    return reading.builder.part(source, axis=axis, start=first, end=last, name=node.name)


def _split(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    """Every result but the first is noted here, the first by the caller."""
    source = reading.known[node.input[0]]
    axis = _axis(reading, node, given.get("axis", 0))
    parts, start = [], 0
    for output in node.output:
        size = reading.shapes[output][axis]
        if not isinstance(size, int):
            raise ValueError(f"{node.name} splits the batch")
        end = start + size
        parts.append(reading.builder.part(source, axis=axis, start=start, end=end, name=node.name))
        reading.known[output] = parts[-1]
        start = end
    return parts[0]


def _reduced(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    source = reading.known[node.input[0]]
    if len(node.input) != 2 or not reading.integers(node, 1):
        raise ValueError(f"{node.name} does not say which axes it reduces")
    axes = tuple(sorted(_axis(reading, node, axis) for axis in reading.integers(node, 1)))
    attributes = {"axes": axes, "keepdims": given.get("keepdims", 1)}
    shape = reading.shape(node)
    return reading.builder.add(node.op_type, [source], name=node.name, shape=shape, attributes=attributes)


def _clip(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    if len(node.input) < 2 or not node.input[1]:
        raise ValueError(f"{node.name} has no lower limit")
    return plain(reading, node, given)


def _resize(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    """A resize of height and width to sizes; to other scales there is none."""
    if len(node.input) != 4 or node.input[1] or node.input[2] or not node.input[3]:
        raise ValueError(f"{node.name} resizes by other numbers than sizes")
    source, shape = reading.known[node.input[0]], reading.shape(node)
    if reading.integers(node, 3) != shape or reading.builder.shape_of(source)[:2] != shape[:2]:
        raise ValueError(f"{node.name} resizes to {reading.integers(node, 3)}, which is {shape}")
    full = {**RESIZE, **given}
    if full.get("keep_aspect_ratio_policy") == b"stretch":
        del full["keep_aspect_ratio_policy"]
    if full["coordinate_transformation_mode"] != b"tf_crop_and_resize":
        full.pop("extrapolation_value", None)
    if full["mode"] != b"nearest":
        full.pop("nearest_mode", None)
    if full["mode"] != b"cubic":
        full.pop("cubic_coeff_a")
    return reading.builder.add("Resize", [source], name=node.name, shape=shape, attributes=full)


RESIZE: Mapping[str, Any] = MappingProxyType(
    {
        "antialias": 0,
        "coordinate_transformation_mode": b"half_pixel",
        "cubic_coeff_a": -0.75,
        "exclude_outside": 0,
        "mode": b"nearest",
    }
)
"""Attributes of ONNX's resize, as they are where nothing is said."""


def _identity(reading: Reading, node: onnx.NodeProto, _: Mapping[str, Any]) -> Operand:
    return reading.known[node.input[0]]


def _product(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    """A product, or the last step of the exact GELU as operator sets before 20 have to write it."""
    rows, other = reading.operands(node)
    scaled = reading.builder.step(other, "Mul")
    raised = scaled and _with(reading, scaled, 0.5, "Add")
    error = raised and _with(reading, raised, 1.0, "Erf")
    inner = error and reading.builder.step(error.operands[0], "Div")
    if inner and inner.operands[0] == rows and _is(inner.operands[1], np.sqrt(2)):
        attributes = {"approximate": b"none"}
        shape = reading.shape(node)
        return reading.builder.add("Gelu", [rows], name=node.name, shape=shape, attributes=attributes)
    return plain(reading, node, given)


def _with(reading: Reading, step: Operation, constant: float, kind: str) -> Operation | None:
    """The step of this kind that `step` puts together with a constant."""
    for one, other in (step.operands, step.operands[::-1]):
        if _is(one, constant):
            return reading.builder.step(other, kind)
    return None


def _is(operand: Operand, value: float) -> bool:
    if not isinstance(operand, Weight) or operand.array.shape != ():
        return False
    return bool(operand.array == operand.array.dtype.type(value))


READERS: Mapping[str, Callable[[Reading, onnx.NodeProto, Mapping[str, Any]], Operand]] = MappingProxyType(
    {
        "Clip": _clip,
        "Concat": _on_axis,
        "Conv": _conv,
        "Expand": _expand,
        "Gather": _on_axis,
        "Gelu": _gelu,
        "Gemm": _gemm,
        "Identity": _identity,
        "LayerNormalization": _layer_norm,
        "Mul": _product,
        "ReduceL2": _reduced,
        "ReduceMax": _reduced,
        "ReduceMean": _reduced,
        "ReduceSum": _reduced,
        "Reshape": _reshape,
        "Resize": _resize,
        "Slice": _slice,
        "Softmax": _on_axis,
        "Split": _split,
        "Squeeze": _reshape,
        "Transpose": _transpose,
        "Unsqueeze": _reshape,
    }
)
"""Operators that need more than `plain`."""
