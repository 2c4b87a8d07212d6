"""A graph written anew, node by node, its weights inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vitral.tensors import Array


class Editor:
    """Takes the nodes of the new graph in order; inputs, outputs and names are those of the old one.

    Args:
        model: the old graph, its weights inside; it is not changed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._old = model
        self._held = {item.name: item for item in model.graph.initializer}
        self._made: dict[str, onnx.TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []

    def held(self, name: str) -> onnx.TensorProto | None:
        """The old graph's constant of this name."""
        return self._held.get(name)

    def floats(self, name: str) -> Array | None:
        """The old graph's float32 constant of this name."""
        item = self._held.get(name)
        if item is None or item.data_type != onnx.TensorProto.FLOAT:
            return None
        return numpy_helper.to_array(item)

    def constant(self, name: str, array: Array) -> str:
        """Adds a constant, once; gives its name."""
        if name not in self._made:
            self._made[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def keep(self, node: onnx.NodeProto, *, takes: Sequence[str], gives: Sequence[str]) -> onnx.NodeProto:
        """Adds a node of the old graph that takes and gives tensors of these names."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.input[:] = takes
        new.output[:] = gives
        self._nodes.append(new)
        return new

    def add(self, kind: str, takes: Sequence[str], gives: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a new node; gives the name of its first result."""
        self._nodes.append(helper.make_node(kind, takes, gives, name, **attributes))
        return gives[0]

    def finish(self) -> onnx.ModelProto:
        """The new graph, with the constants that it needs."""
        new = onnx.ModelProto()
        for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version"):
            if self._old.HasField(field):
                setattr(new, field, getattr(self._old, field))
        new.opset_import.extend(self._old.opset_import)
        graph = new.graph
        graph.name = self._old.graph.name
        graph.input.extend(self._old.graph.input)
        graph.output.extend(self._old.graph.output)
        graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        for name, item in (*self._held.items(), *self._made.items()):
            if name in used:
                graph.initializer.append(item)
        return new
