"""Readers of ATen operators: each writes one node as steps in ONNX's terms."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from vitral.errors import ProofError
from vitral_export.builder import Builder
from vitral_export.operations import BATCHES, Extent, Operand, Shape, Weight, extent_of

Known = dict[Node, Operand]
"""The operand behind each node read so far."""

Reader = Callable[[Node, Known, Builder], Operand]
"""From a node to the operand of its result."""


def _shape(node: Node) -> Shape:
    try:
        return tuple(_extent(item) for item in node.meta["val"].shape)
    except ValueError as error:
        raise ProofError(f"structure: {node.name}: {error}") from error


def _extent(value: int | torch.SymInt) -> Extent:
    if isinstance(value, int):
        return value
    expression = value.node.expr
    symbols = sorted(expression.free_symbols, key=str)
    if len(symbols) > 1:
        raise ValueError(f"an extent is {expression}, which depends on more than the batch")
    first, second = (int(expression.subs(dict.fromkeys(symbols, size))) for size in BATCHES)
    return extent_of(first, second)


def _operand(item: Any, known: Known) -> Operand:
    """A tensor operand; Python numbers become float32 scalars, as torch takes them."""
    return known[item] if isinstance(item, Node) else Weight(str(item), np.array(item, np.float32))


def _arguments(node: Node) -> tuple[Any, ...]:
    """Every argument of the operator in the order of its schema, defaults filled in."""
    target: Any = node.target
    given = dict(zip((item.name for item in target._schema.arguments), node.args, strict=False)) | node.kwargs
    return tuple(given.get(item.name, item.default_value) for item in target._schema.arguments)


def _same(node: Node, known: Known, _: Builder) -> Operand:
    return known[node.all_input_nodes[0]]


def _dropout(node: Node, known: Known, builder: Builder) -> Operand:
    _, rate, training = _arguments(node)
    return _active_dropout(node, known, builder) if training and rate else _same(node, known, builder)


def _active_dropout(node: Node, _: Known, __: Builder) -> Operand:
    raise ProofError(f"structure: {node.name} drops values out: the module is left in training mode")


def _plain(kind: str, **attributes: Any) -> Reader:
    """A reader for an operator whose tensors are its only arguments."""

    def reader(node: Node, known: Known, builder: Builder) -> Operand:
        operands = [_operand(item, known) for item in node.args]
        if any(value != 1 for key, value in node.kwargs.items() if key == "alpha"):
            raise ProofError(f"structure: {node.name} has a factor, for which there is no rule")
        return builder.add(kind, operands, name=node.name, shape=_shape(node), attributes=attributes)

    return reader


def _convolution(node: Node, known: Known, builder: Builder) -> Operand:
    image, weight, bias, stride, padding, dilation, groups = _arguments(node)
    if isinstance(padding, str):
        raise ProofError(f"structure: {node.name} has padding {padding!r}, for which there is no rule")
    operands = [known[item] for item in (image, weight, bias) if item is not None]
    stride, padding, dilation = (_pair(item) for item in (stride, padding, dilation))
    attributes = {"strides": stride, "pads": (*padding, *padding), "dilations": dilation, "group": groups}
    return builder.add("Conv", operands, name=node.name, shape=_shape(node), attributes=attributes)


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    pair = (value,) if isinstance(value, int) else tuple(value)
    return pair * 2 if len(pair) == 1 else pair


def _reshape(node: Node, known: Known, builder: Builder) -> Operand:
    return builder.add("Reshape", [known[node.all_input_nodes[0]]], name=node.name, shape=_shape(node))


def _expand(node: Node, known: Known, builder: Builder) -> Operand:
    return builder.add(
        "Expand",
        [known[node.all_input_nodes[0]]],
        name=node.name,
        shape=_shape(node),
        attributes={"shape": _shape(node)},
    )


def _permute(node: Node, known: Known, builder: Builder) -> Operand:
    source, order = _arguments(node)
    perm = tuple(axis % len(order) for axis in order)
    shape = _shape(node)
    return builder.add("Transpose", [known[source]], name=node.name, shape=shape, attributes={"perm": perm})


def _transpose(node: Node, known: Known, builder: Builder) -> Operand:
    source, one, other = _arguments(node)
    shape = _shape(node)
    perm = list(range(len(shape)))
    one, other = one % len(perm), other % len(perm)
    perm[one], perm[other] = other, one
    return builder.add(
        "Transpose", [known[source]], name=node.name, shape=shape, attributes={"perm": tuple(perm)}
    )


def _linear(node: Node, known: Known, builder: Builder) -> Operand:
    rows, weight, bias = _arguments(node)
    held, offset = known[weight], None if bias is None else known[bias]
    if not isinstance(held, Weight) or isinstance(offset, str):
        raise ProofError(f"structure: {node.name} has weights that depend on the input: no rule for that")
    return builder.linear(known[rows], held, offset, name=node.name, shape=_shape(node))


def _layer_norm(node: Node, known: Known, builder: Builder) -> Operand:
    rows, extents, weight, bias, epsilon, *_ = _arguments(node)
    if len(extents) != 1 or weight is None:
        raise ProofError(f"structure: {node.name} normalises {list(extents)}, for which there is no rule")
    attributes = {"axis": len(_shape(node)) - 1, "epsilon": float(np.float32(epsilon)), "stash_type": 1}
    operands = [known[item] for item in (rows, weight, bias) if item is not None]
    return builder.add(
        "LayerNormalization", operands, name=node.name, shape=_shape(node), attributes=attributes
    )


def _gelu(node: Node, known: Known, builder: Builder) -> Operand:
    rows, approximate = _arguments(node)
    attributes = {"approximate": approximate.encode()}
    return builder.add("Gelu", [known[rows]], name=node.name, shape=_shape(node), attributes=attributes)


def _softmax(node: Node, known: Known, builder: Builder) -> Operand:
    rows, axis, dtype = _arguments(node)
    _demand_float32(node, dtype)
    attributes = {"axis": axis % len(_shape(node))}
    return builder.add("Softmax", [known[rows]], name=node.name, shape=_shape(node), attributes=attributes)


def _cat(node: Node, known: Known, builder: Builder) -> Operand:
    parts, axis = _arguments(node)
    attributes = {"axis": axis % len(_shape(node))}
    operands = [known[item] for item in parts]
    return builder.add("Concat", operands, name=node.name, shape=_shape(node), attributes=attributes)


def _select(node: Node, known: Known, builder: Builder) -> Operand:
    source, axis, index = _arguments(node)
    extents = builder.shape_of(known[source])
    at = Weight("index", np.array(index, np.int64))
    attributes = {"axis": axis % len(extents)}
    return builder.add(
        "Gather", [known[source], at], name=node.name, shape=_shape(node), attributes=attributes
    )


def _slice(node: Node, known: Known, builder: Builder) -> Operand:
    source, axis, start, end, step = _arguments(node)
    extents = builder.shape_of(known[source])
    size = extents[axis % len(extents)]
    whole = not start and (end is None or end == sys.maxsize or end == size)
    if whole and step == 1:
        return known[source]
    if not isinstance(size, int):
        raise ProofError(f"structure: {node.name} cuts the batch, for which there is no rule")
    if step != 1:
        raise ProofError(f"structure: {node.name} takes every {step}th value, for which there is no rule")
    first, last, _ = slice(start, end).indices(size)
    return builder.part(known[source], axis=axis % len(extents), start=first, end=last, name=node.name)


def part(node: Node, known: Known, builder: Builder) -> Operand:
    """One of the tensors that a split or an unbind gives: a slice."""
    whole, index = node.args
    assert isinstance(whole, Node)
    assert isinstance(index, int)
    source, *rest = _arguments(whole)
    axis = rest[-1] % len(builder.shape_of(known[source]))
    if str(whole.target) == "aten.unbind.int":
        one = builder.part(known[source], axis=axis, start=index, end=index + 1, name=node.name)
        return builder.add("Reshape", [one], name=node.name, shape=_shape(node))
    sizes = [size for item in whole.meta["val"] if isinstance(size := item.shape[axis], int)]
    if len(sizes) != len(whole.meta["val"]):
        raise ProofError(f"structure: {node.name} cuts the batch, for which there is no rule")
    start = sum(sizes[:index])
    return builder.part(known[source], axis=axis, start=start, end=start + sizes[index], name=node.name)


def _mean(node: Node, known: Known, builder: Builder) -> Operand:
    rows, axes, keep, dtype = _arguments(node)
    _demand_float32(node, dtype)
    if not axes:
        raise ProofError(f"structure: {node.name} is a mean over everything, for which there is no rule")
    rank = len(builder.shape_of(known[rows]))
    attributes = {"axes": tuple(sorted(axis % rank for axis in axes)), "keepdims": int(keep)}
    return builder.add("ReduceMean", [known[rows]], name=node.name, shape=_shape(node), attributes=attributes)


def _demand_float32(node: Node, dtype: torch.dtype | None) -> None:
    if dtype not in (None, torch.float32):
        raise ProofError(f"structure: {node.name} computes in {dtype}, for which there is no rule")


def _silu(node: Node, known: Known, builder: Builder) -> Operand:
    rows = known[node.all_input_nodes[0]]
    gate = builder.add("Sigmoid", [rows], name=node.name, shape=_shape(node))
    return builder.add("Mul", [rows, gate], name=node.name, shape=_shape(node))


READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "aten._unsafe_view.default": _reshape,
        "aten.add.Tensor": _plain("Add"),
        "aten.alias.default": _same,
        "aten.bmm.default": _plain("MatMul"),
        "aten.cat.default": _cat,
        "aten.clone.default": _same,
        "aten.contiguous.default": _same,
        "aten.conv2d.default": _convolution,
        "aten.detach.default": _same,
        "aten.div.Tensor": _plain("Div"),
        "aten.dropout.default": _dropout,
        "aten.expand.default": _expand,
        "aten.flatten.using_ints": _reshape,
        "aten.gelu.default": _gelu,
        "aten.layer_norm.default": _layer_norm,
        "aten.linear.default": _linear,
        "aten.matmul.default": _plain("MatMul"),
        "aten.mean.dim": _mean,
        "aten.mul.Tensor": _plain("Mul"),
        "aten.native_dropout.default": _active_dropout,  # what is left of one in training mode
        "aten.neg.default": _plain("Neg"),
        "aten.permute.default": _permute,
        "aten.pow.Tensor_Scalar": _plain("Pow"),
        "aten.relu.default": _plain("Relu"),
        "aten.reshape.default": _reshape,
        "aten.select.int": _select,
        "aten.sigmoid.default": _plain("Sigmoid"),
        "aten.silu.default": _silu,
        "aten.slice.Tensor": _slice,
        "aten.softmax.int": _softmax,
        "aten.sqrt.default": _plain("Sqrt"),
        "aten.squeeze.dim": _reshape,
        "aten.sub.Tensor": _plain("Sub"),
        "aten.tanh.default": _plain("Tanh"),
        "aten.transpose.int": _transpose,
        "aten.unsqueeze.default": _reshape,
        "aten.view.default": _reshape,
    }
)
"""Every operator there is a rule for, by its name in torch."""
