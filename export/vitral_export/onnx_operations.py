"""The steps of an ONNX file, with defaults filled in and shapes made plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vitral.tensors import Array
from vitral_export.operations import INPUT, Operand, Operation, Program, Weight

_Operands = Mapping[str, Operand]


def read(model: onnx.ModelProto) -> Program:
    """The steps of a graph whose external weights are loaded.

    Raises:
        ValueError: a node takes a tensor that is made after it, or has an unreadable shape.
    """
    graph = model.graph
    known: dict[str, Operand] = {item.name: INPUT for item in graph.input}
    known |= {item.name: Weight(item.name, numpy_helper.to_array(item)) for item in graph.initializer}
    steps: list[Operation] = []
    for node in graph.node:
        if node.op_type == "Constant":
            value = helper.get_attribute_value(node.attribute[0])
            known[node.output[0]] = Weight(node.output[0], numpy_helper.to_array(value))
            continue
        if missing := [name for name in node.input if name and name not in known]:
            raise ValueError(f"{node.name} takes {', '.join(missing)}, which nothing makes before it")
        given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        reader = _READERS.get(node.op_type, _plain)
        steps.append(reader(node, given, known))
        known[node.output[0]] = f"#{len(steps) - 1}"
    return Program(tuple(steps), tuple(known.get(item.name, "nothing") for item in graph.output))


def _plain(node: onnx.NodeProto, given: Mapping[str, Any], known: _Operands) -> Operation:
    attributes = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    operands = tuple(known[name] for name in node.input if name)
    return Operation(node.op_type, attributes, operands, node.name)


def _conv(node: onnx.NodeProto, given: Mapping[str, Any], known: _Operands) -> Operation:
    weight = known[node.input[1]]
    kernel = weight.array.shape[2:] if isinstance(weight, Weight) else ()
    ones = [1] * len(kernel)
    full = {"strides": ones, "pads": [0, 0] * len(kernel), "dilations": ones, "group": 1, **given}
    if full.get("auto_pad") == b"NOTSET":
        del full["auto_pad"]
    if tuple(full.get("kernel_shape", kernel)) == tuple(kernel):
        full.pop("kernel_shape", None)
    return _plain(node, full, known)


def _reshape(node: onnx.NodeProto, given: Mapping[str, Any], known: _Operands) -> Operation:
    target = known[node.input[1]]
    if not isinstance(target, Weight):
        raise ValueError(f"{node.name} takes a shape that is computed in the graph")
    copies = not given.get("allowzero", 0)  # then 0 copies the extent of the input
    extents: list[int | None] = [int(extent) for extent in np.ravel(_integers(target.array))]
    for index, extent in enumerate(extents):
        if extent == -1 or (extent == 0 and index == 0 and copies):
            extents[index] = None
    return Operation("Reshape", {"shape": tuple(extents)}, (known[node.input[0]],), node.name)


def _integers(array: Array) -> Array:
    if array.dtype != np.int64:
        raise ValueError(f"a shape is {array.dtype}, int64 is expected")
    return array


_READERS: Mapping[str, Callable[[onnx.NodeProto, Mapping[str, Any], _Operands], Operation]] = (
    MappingProxyType({"Conv": _conv, "Reshape": _reshape})
)
