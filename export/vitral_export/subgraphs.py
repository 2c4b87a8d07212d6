"""Graphs of their own for outputs that need only a part of the whole.

onnxruntime runs every node of a graph, whatever outputs are asked for. So an output that needs little of the
whole is given by a smaller graph too, over the same weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import PurePath

import onnx

OF_THE_WHOLE = 0.25
"""The share of the whole's multiply-adds that a graph has to leave out, or there is none.

Only a model's main graph has its weights repacked: an encoder on mapped ones takes a fifth longer.
"""

OF_THE_NEXT = 0.05
"""The share of the next larger graph's cost that it has to save, or its outputs are left to that one."""

_VALUE = 40
"""Multiply-adds that take as long as writing one value, measured on ViT-B/16's patch embedding."""

_FREE = frozenset({"Constant", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"})
"""Operators that onnxruntime answers without touching a value."""


def parts(model: onnx.ModelProto, shape: Sequence[int]) -> dict[str, tuple[str, ...]]:
    """The graphs worth having beside the whole, cheapest first: how far each goes, and all it gives by then.

    Args:
        model: the whole graph.
        shape: extents of its input, for which costs are told.
    """
    work, needs = _work(model, shape), _needs(model)
    every = frozenset(index for needed in needs.values() for index in needed)

    def products(nodes: frozenset[int]) -> int:
        return sum(work[index].products for index in nodes)

    def cost(nodes: frozenset[int]) -> int:
        return products(nodes) + _VALUE * sum(work[index].values for index in nodes)

    by_cost = sorted(needs, key=lambda name: cost(needs[name]))
    all_products = products(every)
    graphs = {"": every}
    for name in reversed(by_cost):
        mine = needs[name]
        cheapest = min(cost(held) for held in graphs.values() if mine <= held)
        leaves_out = all_products - products(mine) >= OF_THE_WHOLE * all_products > 0
        if mine and leaves_out and cost(mine) <= (1 - OF_THE_NEXT) * cheapest:
            graphs[name] = mine
    chosen = [name for name in by_cost if name in graphs]
    return {name: tuple(item for item in needs if needs[item] <= needs[name]) for name in chosen}


def cut(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """The graph of these outputs alone: what they need of nodes, initialisers and extents, in its order."""
    needs = _needs(model)
    kept = {index for name in outputs for index in needs[name]}
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    nodes = [node for index, node in enumerate(graph.node) if index in kept]
    names = {name for node in nodes for name in (*node.input, *node.output)}
    held = {
        "node": nodes,
        "initializer": [item for item in graph.initializer if item.name in names],
        "value_info": [item for item in graph.value_info if item.name in names and item.name not in outputs],
        "output": [item for item in graph.output if item.name in outputs],
    }
    for field, items in held.items():
        graph.ClearField(field)
        getattr(graph, field).extend(items)
    return small


def file_of(whole: str, output: str, *, taken: Container[str]) -> str:
    """File of the part of a graph that goes up to an output: `model_uint8_embeddings.onnx`."""
    stem = f"{PurePath(whole).stem}_{re.sub(r'[^A-Za-z0-9._-]', '_', output)}"
    names = (f"{stem}{more}.onnx" for more in chain([""], (f"_{number}" for number in count(2))))
    return next(name for name in names if name not in taken)


def _needs(model: onnx.ModelProto) -> dict[str, frozenset[int]]:
    """Output to the nodes behind it, by index."""
    makers = {name: index for index, node in enumerate(model.graph.node) for name in node.output if name}
    found = {}
    for output in model.graph.output:
        seen: set[int] = set()
        waiting = [output.name]
        while waiting:
            index = makers.get(waiting.pop())
            if index is not None and index not in seen:
                seen.add(index)
                waiting += model.graph.node[index].input
        found[output.name] = frozenset(seen)
    return found


@dataclass(frozen=True)
class _Work:
    """Multiply-adds of a node, and values that it writes."""

    products: int = 0
    values: int = 0


def _work(model: onnx.ModelProto, shape: Sequence[int]) -> list[_Work]:
    """What each node does."""
    extents = _extents(model, shape)
    moving = {model.graph.input[0].name}  # what depends on the input; the rest is computed once
    found = []
    for node in model.graph.node:
        if moving.isdisjoint(node.input):
            found.append(_Work())
            continue
        moving.update(node.output)
        values = sum(math.prod(extents[name]) for name in node.output if name in extents)
        found.append(_Work() if node.op_type in _FREE else _Work(values * _depth(node, extents), values))
    return found


def _depth(node: onnx.NodeProto, extents: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-adds behind each value that a node writes."""
    given = [extents.get(name, ()) for name in node.input]
    if node.op_type in ("MatMul", "Gemm"):
        return given[0][-1] if given[0] else 0
    if node.op_type == "Conv":
        return math.prod(given[1][1:])
    if node.op_type == "Attention" and len(given[1]) > 1:  # queries with keys, weights with values
        return 2 * given[1][-2]
    return 0


def _extents(model: onnx.ModelProto, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Extents by tensor name, for an input of this shape."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    graph = sized.graph
    graph.ClearField("value_info")
    for axis, dim in zip(shape, graph.input[0].type.tensor_type.shape.dim, strict=True):
        dim.dim_value = axis
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    found = {item.name: tuple(item.dims) for item in graph.initializer}
    for info in (*inferred.value_info, *inferred.output, *inferred.input):
        dims = info.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            found[info.name] = tuple(dim.dim_value for dim in dims)
    return found
