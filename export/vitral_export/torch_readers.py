"""Readers of ATen operators: each writes one node as steps in ONNX's terms."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from torch.fx import Node

from vitral.errors import ProofError
from vitral_export.builder import Builder
from vitral_export.operations import Operand, Weight
from vitral_export.torch_nodes import Known, Reader, arguments_of, demand_float32, operand_of, shape_of


def _same(node: Node, known: Known, _: Builder) -> Operand:
    return known[node.all_input_nodes[0]]


def _dropout(node: Node, known: Known, builder: Builder) -> Operand:
    _, rate, training = arguments_of(node)
    return _active_dropout(node, known, builder) if training and rate else _same(node, known, builder)


def _active_dropout(node: Node, _: Known, __: Builder) -> Operand:
    raise ProofError(f"structure: {node.name} drops values out: the module is left in training mode")


def _plain(kind: str, **attributes: Any) -> Reader:
    """A reader for an operator whose tensors are its only arguments."""

    def reader(node: Node, known: Known, builder: Builder) -> Operand:
        operands = [operand_of(item, known) for item in node.args]
        if any(value != 1 for key, value in node.kwargs.items() if key == "alpha"):
            raise ProofError(f"structure: {node.name} has a factor, for which there is no rule")
        return builder.add(kind, operands, name=node.name, shape=shape_of(node), attributes=attributes)

    return reader


def _convolution(node: Node, known: Known, builder: Builder) -> Operand:
    image, weight, bias, stride, padding, dilation, groups = arguments_of(node)
    if padding == "valid":
        padding = 0
    if isinstance(padding, str):
        raise ProofError(f"structure: {node.name} has padding {padding!r}, for which there is no rule")
    operands = [known[item] for item in (image, weight, bias) if item is not None]
    stride, padding, dilation = (_pair(item) for item in (stride, padding, dilation))
    attributes = {"strides": stride, "pads": (*padding, *padding), "dilations": dilation, "group": groups}
    return builder.add("Conv", operands, name=node.name, shape=shape_of(node), attributes=attributes)


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    pair = (value,) if isinstance(value, int) else tuple(value)
    return pair * 2 if len(pair) == 1 else pair


def _reshape(node: Node, known: Known, builder: Builder) -> Operand:
    return builder.add("Reshape", [known[node.all_input_nodes[0]]], name=node.name, shape=shape_of(node))


def _expand(node: Node, known: Known, builder: Builder) -> Operand:
    return builder.add(
        "Expand",
        [known[node.all_input_nodes[0]]],
        name=node.name,
        shape=shape_of(node),
        attributes={"shape": shape_of(node)},
    )


def _permute(node: Node, known: Known, builder: Builder) -> Operand:
    source, order = arguments_of(node)
    perm = tuple(axis % len(order) for axis in order)
    shape = shape_of(node)
    return builder.add("Transpose", [known[source]], name=node.name, shape=shape, attributes={"perm": perm})


def _transpose(node: Node, known: Known, builder: Builder) -> Operand:
    source, one, other = arguments_of(node)
    shape = shape_of(node)
    perm = list(range(len(shape)))
    one, other = one % len(perm), other % len(perm)
    perm[one], perm[other] = other, one
    return builder.add(
        "Transpose", [known[source]], name=node.name, shape=shape, attributes={"perm": tuple(perm)}
    )


def _linear(node: Node, known: Known, builder: Builder) -> Operand:
    rows, weight, bias = arguments_of(node)
    held, offset = known[weight], None if bias is None else known[bias]
    name, shape = node.name, shape_of(node)
    if isinstance(held, Weight) and (offset is None or isinstance(offset, Weight)):
        return builder.linear(known[rows], held, offset, name=name, shape=shape)
    turn = {"perm": (1, 0)}
    turned = builder.add("Transpose", [held], name=name, shape=builder.shape_of(held)[::-1], attributes=turn)
    product = builder.add("MatMul", [known[rows], turned], name=name, shape=shape)
    return product if offset is None else builder.add("Add", [product, offset], name=name, shape=shape)


def _layer_norm(node: Node, known: Known, builder: Builder) -> Operand:
    rows, extents, weight, bias, epsilon, *_ = arguments_of(node)
    if len(extents) != 1 or (weight is None and bias is not None):
        raise ProofError(f"structure: {node.name} normalises {list(extents)}, for which there is no rule")
    attributes = {"axis": len(shape_of(node)) - 1, "epsilon": float(np.float32(epsilon)), "stash_type": 1}
    operands = [known[item] for item in (rows, weight, bias) if item is not None]
    if weight is None:  # ONNX's operator takes one always
        operands.append(Weight("ones", np.ones(extents, np.float32)))
    return builder.add(
        "LayerNormalization", operands, name=node.name, shape=shape_of(node), attributes=attributes
    )


def _gelu(node: Node, known: Known, builder: Builder) -> Operand:
    rows, approximate = arguments_of(node)
    attributes = {"approximate": approximate.encode()}
    return builder.add("Gelu", [known[rows]], name=node.name, shape=shape_of(node), attributes=attributes)


def _softmax(node: Node, known: Known, builder: Builder) -> Operand:
    rows, axis, dtype = arguments_of(node)
    demand_float32(node, dtype)
    attributes = {"axis": axis % len(shape_of(node))}
    return builder.add("Softmax", [known[rows]], name=node.name, shape=shape_of(node), attributes=attributes)


def _cat(node: Node, known: Known, builder: Builder) -> Operand:
    parts, axis = arguments_of(node)
    attributes = {"axis": axis % len(shape_of(node))}
    operands = [known[item] for item in parts]
    return builder.add("Concat", operands, name=node.name, shape=shape_of(node), attributes=attributes)


def _select(node: Node, known: Known, builder: Builder) -> Operand:
    source, axis, index = arguments_of(node)
    extents = builder.shape_of(known[source])
    at = Weight("index", np.array(index, np.int64))
    attributes = {"axis": axis % len(extents)}
    return builder.add(
        "Gather", [known[source], at], name=node.name, shape=shape_of(node), attributes=attributes
    )


def _slice(node: Node, known: Known, builder: Builder) -> Operand:
    source, axis, start, end, step = arguments_of(node)
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
    source, *rest = arguments_of(whole)
    axis = rest[-1] % len(builder.shape_of(known[source]))
    if str(whole.target) == "aten.unbind.int":
        one = builder.part(known[source], axis=axis, start=index, end=index + 1, name=node.name)
        return builder.add("Reshape", [one], name=node.name, shape=shape_of(node))
    sizes = [size for item in whole.meta["val"] if isinstance(size := item.shape[axis], int)]
    if len(sizes) != len(whole.meta["val"]):
        raise ProofError(f"structure: {node.name} cuts the batch, for which there is no rule")
    start = sum(sizes[:index])
    return builder.part(known[source], axis=axis, start=start, end=start + sizes[index], name=node.name)


def _reduced(kind: str) -> Reader:
    """A reader for an operator that makes one value of those along some axes."""

    def reader(node: Node, known: Known, builder: Builder) -> Operand:
        rows, axes, keep, *dtype = arguments_of(node)
        demand_float32(node, dtype[0] if dtype else None)
        rank = len(builder.shape_of(known[rows]))
        if not axes or len(shape_of(node)) not in (rank, rank - len(axes)):
            raise ProofError(f"structure: {node.name} reduces every axis, for which there is no rule")
        attributes = {"axes": tuple(sorted(axis % rank for axis in axes)), "keepdims": int(keep)}
        return builder.add(kind, [known[rows]], name=node.name, shape=shape_of(node), attributes=attributes)

    return reader


def _norm(node: Node, known: Known, builder: Builder) -> Operand:
    rows, order, axes, keep, dtype = arguments_of(node)
    demand_float32(node, dtype)
    if order != 2 or not axes:
        raise ProofError(f"structure: {node.name} is a norm of order {order}, for which there is no rule")
    rank = len(builder.shape_of(known[rows]))
    attributes = {"axes": tuple(sorted(axis % rank for axis in axes)), "keepdims": int(keep)}
    return builder.add("ReduceL2", [known[rows]], name=node.name, shape=shape_of(node), attributes=attributes)


def _clip(node: Node, known: Known, builder: Builder) -> Operand:
    rows, low, *high = arguments_of(node)
    limits = [low, *(item for item in high if item is not None)]
    if any(item is None or isinstance(item, Node) for item in limits):
        raise ProofError(f"structure: {node.name} has no lower limit, for which there is no rule")
    operands = [known[rows], *(operand_of(item, known) for item in limits)]
    return builder.add("Clip", operands, name=node.name, shape=shape_of(node))


def _leaky_relu(node: Node, known: Known, builder: Builder) -> Operand:
    rows, slope = arguments_of(node)
    attributes = {"alpha": float(np.float32(slope))}
    return builder.add(
        "LeakyRelu", [known[rows]], name=node.name, shape=shape_of(node), attributes=attributes
    )


def _rsqrt(node: Node, known: Known, builder: Builder) -> Operand:
    root = builder.add("Sqrt", [known[node.all_input_nodes[0]]], name=node.name, shape=shape_of(node))
    return builder.add("Reciprocal", [root], name=node.name, shape=shape_of(node))


def _einsum(node: Node, known: Known, builder: Builder) -> Operand:
    equation, parts, *_ = arguments_of(node)
    operands = [known[item] for item in parts]
    attributes = {"equation": equation.encode()}
    return builder.add("Einsum", operands, name=node.name, shape=shape_of(node), attributes=attributes)


def _silu(node: Node, known: Known, builder: Builder) -> Operand:
    rows = known[node.all_input_nodes[0]]
    gate = builder.add("Sigmoid", [rows], name=node.name, shape=shape_of(node))
    return builder.add("Mul", [rows, gate], name=node.name, shape=shape_of(node))


READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "aten._unsafe_view.default": _reshape,
        "aten.add.Tensor": _plain("Add"),
        "aten.alias.default": _same,
        "aten.amax.default": _reduced("ReduceMax"),
        "aten.bmm.default": _plain("MatMul"),
        "aten.cat.default": _cat,
        "aten.clamp.default": _clip,
        "aten.clamp_min.default": _clip,
        "aten.clone.default": _same,
        "aten.contiguous.default": _same,
        "aten.conv2d.default": _convolution,
        "aten.conv2d.padding": _convolution,
        "aten.detach.default": _same,
        "aten.div.Tensor": _plain("Div"),
        "aten.dropout.default": _dropout,
        "aten.einsum.default": _einsum,
        "aten.exp.default": _plain("Exp"),
        "aten.expand.default": _expand,
        "aten.flatten.using_ints": _reshape,
        "aten.gelu.default": _gelu,
        "aten.layer_norm.default": _layer_norm,
        "aten.hardswish.default": _plain("HardSwish"),
        "aten.leaky_relu.default": _leaky_relu,
        "aten.linalg_vector_norm.default": _norm,
        "aten.linear.default": _linear,
        "aten.matmul.default": _plain("MatMul"),
        "aten.mean.dim": _reduced("ReduceMean"),
        "aten.mul.Tensor": _plain("Mul"),
        "aten.native_dropout.default": _active_dropout,  # what is left of one in training mode
        "aten.neg.default": _plain("Neg"),
        "aten.permute.default": _permute,
        "aten.pow.Tensor_Scalar": _plain("Pow"),
        "aten.relu.default": _plain("Relu"),
        "aten.reshape.default": _reshape,
        "aten.rsqrt.default": _rsqrt,
        "aten.select.int": _select,
        "aten.sigmoid.default": _plain("Sigmoid"),
        "aten.silu.default": _silu,
        "aten.slice.Tensor": _slice,
        "aten.softmax.int": _softmax,
        "aten.sqrt.default": _plain("Sqrt"),
        "aten.squeeze.dim": _reshape,
        "aten.sub.Tensor": _plain("Sub"),
        "aten.sum.dim_IntList": _reduced("ReduceSum"),
        "aten.tanh.default": _plain("Tanh"),
        "aten.transpose.int": _transpose,
        "aten.unsqueeze.default": _reshape,
        "aten.view.default": _reshape,
    }
)
"""Every operator there is a rule for, by its name in torch."""
