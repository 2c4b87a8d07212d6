"""Readers of ONNX operators that mean several steps, or give several results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from vitral_export.onnx_readers import Reading
from vitral_export.operations import Operand, Shape, Weight

_RANK = 4  # batch, heads, tokens, width of a head


def _attention(reading: Reading, node: onnx.NodeProto, given: Mapping[str, Any]) -> Operand:
    """softmax(Q K^T s) V of (B, H, T, D), as a product, a factor, a softmax and a product."""
    operands = reading.operands(node)
    shapes = [reading.builder.shape_of(item) for item in operands]
    told = {key: value for key, value in given.items() if key != "scale" and value}
    more = [name for name in node.output[1:] if name]
    if len(operands) != 3 or told or more or any(len(shape) != _RANK for shape in shapes):
        what = f"{len(operands)} tensors of {shapes}, attributes {told}, results {more}"
        raise ValueError(f"{node.name} is an Attention for which there is no rule: {what}")
    query, key, value = operands
    batch, heads, tokens, width = shapes[1]
    scale = given.get("scale", 1 / math.sqrt(_number(width)))
    factor = Weight("scale", np.array(scale, reading.numbers(node.input[0])))
    scores = (*shapes[0][:-1], tokens)

    def add(kind: str, takes: list[Operand], shape: Shape, **attributes: Any) -> Operand:
        return reading.builder.add(kind, takes, name=node.name, shape=shape, attributes=attributes)

    turned = add("Transpose", [key], (batch, heads, width, tokens), perm=(0, 1, 3, 2))
    found = add("Mul", [add("MatMul", [query, turned], scores), factor], scores)
    found = add("Softmax", [found], scores, axis=_RANK - 1)
    return add("MatMul", [found, value], reading.shape(node))


def _number(extent: object) -> int:
    if not isinstance(extent, int):
        raise ValueError(f"a head of attention is {extent} wide")
    return extent


def _dynamic_quantise(reading: Reading, node: onnx.NodeProto, _: Mapping[str, Any]) -> Operand:
    """Levels, scale and zero point; the last two are noted here, the first by the caller."""
    made = []
    for place, name in enumerate(node.output):
        shape = () if place else reading.shape(node)
        attributes = {"result": place}
        made.append(
            reading.builder.add(
                node.op_type, reading.operands(node), name=node.name, shape=shape, attributes=attributes
            )
        )
        reading.known[name] = made[-1]
    return made[0]


COMPOUNDS: Mapping[str, Callable[[Reading, onnx.NodeProto, Mapping[str, Any]], Operand]] = MappingProxyType(
    {"Attention": _attention, "DynamicQuantizeLinear": _dynamic_quantise}
)
"""Readers of these operators, beside those of `onnx_readers.READERS`."""
