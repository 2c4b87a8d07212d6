"""Small changes of an ONNX graph in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx


def moved(graph: onnx.GraphProto, taken: str) -> set[str]:
    """The tensors between the input and what the projection takes: all that is moved on the way."""
    makers = {name: node for node in graph.node for name in node.output}
    path = {taken}
    while taken in makers:
        taken = makers[taken].input[0]
        path.add(taken)
    return path


def insert(graph: onnx.GraphProto, at: int, new: Sequence[onnx.NodeProto]) -> None:
    """Puts nodes in front of the one at this place."""
    nodes: list[Any] = [*graph.node[:at], *new, *graph.node[at:]]
    del graph.node[:]
    graph.node.extend(nodes)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drops initialisers that no node takes."""
    used = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
