"""Every single change of a graph of a few kinds: what a fault would be that nobody thought of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vitral.tensors import Array

Change = Callable[[onnx.GraphProto], None]
Mutation = tuple[str, Change]
"""What is changed, in a few words, and how."""

_OTHERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Add": ("Sub", "Mul"),
        "Cast": ("Identity",),
        "Gelu": ("Relu", "Identity"),
        "Mul": ("Div", "Add"),
        "Reshape": ("Expand",),
        "Softmax": ("LogSoftmax",),
        "Sub": ("Add",),
        "Tanh": ("Sigmoid", "Relu"),
        "Transpose": ("Identity",),
    }
)
_BEHIND = ("Neg", "Abs", "Relu", "Dropout", "Identity")


def mutations(graph: onnx.GraphProto) -> Iterator[Mutation]:
    """Changes of attributes, operands, operators, constants, weights and outputs, one at a time."""
    for index, node in enumerate(graph.node):
        for attribute in node.attribute:
            yield from _of_attribute(index, node, attribute)
        yield from _of_operands(index, node, graph)
        yield from _of_operator(index, node)
    for index, item in enumerate(graph.initializer):
        yield from _of_tensor(index, item)
    names = [item.name for item in graph.output]
    for at, one in enumerate(names):
        for other in names[:at]:
            yield f"outputs {one} and {other} exchanged", _exchanged(one, other)


def _of_attribute(index: int, node: onnx.NodeProto, attribute: onnx.AttributeProto) -> Iterator[Mutation]:
    name, value = attribute.name, helper.get_attribute_value(attribute)
    for new in (*_other_values(value), None):
        said = "left out" if new is None else f"{new} for {value}"
        yield f"{node.name}: {name} {said}", _with_attribute(index, name, new)


def _other_values(value: Any) -> Iterator[Any]:
    if isinstance(value, int):
        yield from (value + 1, value - 1, -value - 1)
    elif isinstance(value, float):
        yield from (value * 1.001, value + 1e-6)
    elif isinstance(value, bytes):
        yield from (item for item in (b"none", b"tanh", b"SAME_UPPER", b"VALID") if item != value)
    elif isinstance(value, list):
        for at in range(len(value)):
            yield [*value[:at], value[at] + 1, *value[at + 1 :]]
            for other in range(at):
                swapped = list(value)
                swapped[at], swapped[other] = swapped[other], swapped[at]
                if swapped != value:
                    yield swapped


def _with_attribute(index: int, name: str, new: Any) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        node = graph.node[index]
        kept = [item for item in node.attribute if item.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, *([] if new is None else [helper.make_attribute(name, new)])])

    return change


def _of_operands(index: int, node: onnx.NodeProto, graph: onnx.GraphProto) -> Iterator[Mutation]:
    earlier = [name for before in graph.node[:index] for name in before.output]
    there = [graph.input[0].name, *(item.name for item in graph.initializer), *earlier, ""]
    for at, own in enumerate(node.input):
        for name in there:
            if name != own:
                yield f"{node.name}: {name or 'nothing'} for {own}", _with_operand(index, at, name)
    if len(node.input) > 1:
        yield f"{node.name}: operands exchanged", lambda graph: graph.node[index].input.reverse()
        yield f"{node.name}: last operand left out", _with_one_operand_less(index)


def _with_one_operand_less(index: int) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        graph.node[index].input.pop()

    return change


def _with_operand(index: int, at: int, name: str) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        graph.node[index].input[at] = name

    return change


def _of_operator(index: int, node: onnx.NodeProto) -> Iterator[Mutation]:
    for kind in _OTHERS.get(node.op_type, ()):
        yield f"{node.name}: {kind} for {node.op_type}", _as_operator(index, kind)
    for kind in _BEHIND:
        yield f"{node.name}: {kind} behind it", _with_one_behind(index, kind)
    yield f"{node.name}: left out", _without(index)


def _as_operator(index: int, kind: str) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        graph.node[index].op_type = kind

    return change


def _with_one_behind(index: int, kind: str) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        node = graph.node[index]
        result = node.output[0]
        node.output[0] = "before"
        graph.node.insert(index + 1, helper.make_node(kind, ["before"], [result], name="behind"))

    return change


def _without(index: int) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        gone = graph.node[index]
        given, result = gone.input[0], gone.output[0]
        graph.node.remove(gone)
        for node in graph.node:
            node.input[:] = [given if name == result else name for name in node.input]

    return change


def _of_tensor(index: int, item: onnx.TensorProto) -> Iterator[Mutation]:
    array = numpy_helper.to_array(item)
    for what, new in _other_arrays(array):
        yield f"{item.name}: {what}", _with_tensor(index, new)


def _other_arrays(array: Array) -> Iterator[tuple[str, Array]]:
    if array.dtype == np.int64:
        for at in range(array.size):
            for step in (-1, 1, 2):
                new = array.copy()
                new.reshape(-1)[at : at + 1] += step  # of the largest, round to the smallest
                yield f"{new.tolist()} for {array.tolist()}", new
        yield "int32", array.astype(np.int32)
        return
    bit = array.copy()
    bit.reshape(-1).view(f"u{array.itemsize}")[array.size // 2] ^= 1
    yield "one last bit", bit
    yield "the other sign", -array
    yield "transposed", np.ascontiguousarray(array.T)
    yield "one axis more", array[None]
    yield "float64", array.astype(np.float64)


def _with_tensor(index: int, new: Array) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        item = graph.initializer[index]
        item.CopyFrom(numpy_helper.from_array(new, item.name))

    return change


def _exchanged(one: str, other: str) -> Change:
    new = {one: other, other: one}

    def change(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]

    return change
