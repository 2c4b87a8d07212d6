"""The steps of an ONNX file, with defaults filled in and shapes made plain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper

from vitral_export import weights
from vitral_export.builder import Builder
from vitral_export.onnx_constants import computed
from vitral_export.onnx_readers import READERS, plain
from vitral_export.onnx_shapes import shapes
from vitral_export.onnx_sized import Sized, sized
from vitral_export.operations import INPUT, Operand, Program, Shape, Weight


def read(
    model: onnx.ModelProto, folder: Path | None = None, *, size: tuple[int, int] | None = None
) -> Program:
    """The steps of a graph.

    Args:
        model: the graph.
        folder: where its external weights are; None where they are loaded.
        size: height and width of the images, for a graph that takes several.

    Raises:
        ValueError: the graph has a form of which it cannot be told what it computes.
    """
    _demand_plain(model)
    try:
        return _Reading(model, folder, size).program()
    except KeyError as error:
        raise ValueError(f"the extents of {error} cannot be told") from error
    except onnx.shape_inference.InferenceError as error:
        raise ValueError(f"extents do not fit: {error}") from error


def _demand_plain(model: onnx.ModelProto) -> None:
    """Refuses what would give a name two meanings: functions, other domains, names that are taken twice."""
    graph = model.graph
    if model.functions:
        raise ValueError(f"the file defines {len(model.functions)} functions of its own")
    if len(graph.input) != 1:
        raise ValueError(f"the graph takes {len(graph.input)} tensors, one is expected")
    if graph.sparse_initializer:
        raise ValueError("the graph holds sparse tensors, for which there is no rule")
    names = [*(item.name for item in graph.input), *(item.name for item in graph.initializer)]
    names += [name for node in graph.node for name in node.output if name]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{twice[0]} is made more than once")
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise ValueError(f"{node.name} is {node.op_type} of {node.domain}, not of ONNX itself")
        given = [item.name for item in node.attribute]
        if len(set(given)) != len(given):
            raise ValueError(f"{node.name} has an attribute twice")
        if any(item.type == onnx.AttributeProto.GRAPH for item in node.attribute):
            raise ValueError(
                f"{node.name} is a {node.op_type} with a graph inside, for which there is no rule"
            )
        if not node.output or not node.output[0]:
            raise ValueError(f"{node.name} makes nothing")


class _Reading:
    """What is known while the nodes are read in order."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None, size: tuple[int, int] | None) -> None:
        graph = model.graph
        told = Sized(shapes(model), {}, {}) if size is None else sized(model, size, folder)
        self.shapes = told.shapes
        self.known: dict[str, Operand] = {graph.input[0].name: INPUT}
        self.known |= {
            item.name: Weight(item.name, weights.array(item, folder)) for item in graph.initializer
        }
        self.known |= {name: Weight(name, value) for name, value in told.constants.items()}
        self.extents = told.extents
        self.worked = told.constants.keys() | told.extents.keys()
        if graph.input[0].name not in self.shapes:
            raise ValueError(f"the extents of the input {graph.input[0].name} cannot be told")
        self.builder = Builder(self.shapes[graph.input[0].name])
        self.graph = graph

    def program(self) -> Program:
        for node in self.graph.node:
            if missing := [name for name in node.input if name and not self._has(name)]:
                raise ValueError(f"{node.name} takes {', '.join(missing)}, which nothing makes before it")
            try:
                self._read(node)
            except ValueError:
                raise
            except Exception as error:  # whatever else is odd about a node that no exporter wrote
                said = f"{type(error).__name__}: {error}"
                raise ValueError(f"{node.name} is a {node.op_type} that cannot be read ({said})") from error
        if missing := [item.name for item in self.graph.output if item.name not in self.known]:
            raise ValueError(f"nothing makes the output {', '.join(missing)}")
        return self.builder.finish([self.known[item.name] for item in self.graph.output])

    def weight(self, name: str) -> Weight | None:
        operand = self.known.get(name)
        return operand if isinstance(operand, Weight) else None

    def integers(self, node: onnx.NodeProto, index: int) -> Shape:
        """Extents that a node takes as its operand number `index`."""
        name = node.input[index]
        if name in self.extents:
            return self.extents[name]
        held = self.weight(name)
        if held is None:
            raise ValueError(f"{node.name} takes a shape that is computed in the graph")
        if held.array.dtype != np.int64:
            raise ValueError(f"{node.name}: a shape is {held.array.dtype}, int64 is expected")
        return tuple(int(extent) for extent in np.ravel(held.array))

    def operands(self, node: onnx.NodeProto) -> list[Operand]:
        names = list(node.input)
        while names and not names[-1]:
            names.pop()
        if "" in names:  # those behind it would be taken for it
            raise ValueError(f"{node.name} leaves out a tensor in front of others")
        return [self.known[name] for name in names]

    def shape(self, node: onnx.NodeProto) -> Shape:
        if node.output[0] not in self.shapes:
            raise ValueError(f"{node.name} gives a tensor whose extents cannot be told")
        return self.shapes[node.output[0]]

    def _has(self, name: str) -> bool:
        return name in self.known or name in self.extents

    def _read(self, node: onnx.NodeProto) -> None:
        if node.output[0] in self.worked:
            return
        if node.op_type in _EXTENTS:
            extents = _EXTENTS[node.op_type](self, node)
            if extents is not None:
                self.extents[node.output[0]] = extents
                return
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        held = [self.weight(name) for name in node.input if name]
        if node.op_type in _FOLDED and all(held):
            value = computed(node, [item.array for item in held if item])
            self.known[node.output[0]] = Weight(node.output[0], value)
            return
        self.known[node.output[0]] = READERS.get(node.op_type, plain)(self, node, attributes)


def _shape_extents(reading: _Reading, node: onnx.NodeProto) -> Shape | None:
    told = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return reading.shapes[node.input[0]][told.get("start", 0) : told.get("end")]


def _concat_extents(reading: _Reading, node: onnx.NodeProto) -> Shape | None:
    if not any(name in reading.extents for name in node.input):
        return None
    parts = (reading.integers(node, index) for index in range(len(node.input)))
    return tuple(extent for part in parts for extent in part)


_EXTENTS: Mapping[str, Callable[[_Reading, onnx.NodeProto], Shape | None]] = MappingProxyType(
    {"Shape": _shape_extents, "Concat": _concat_extents}
)
"""Operators that compute shapes; None where they work on tensors."""

_FOLDED = frozenset({"Cast", "Concat", "Gather", "Identity", "Reshape", "Transpose", "Unsqueeze"})
"""Operators that are worked out where all they take is constant: they move it, and Cast rounds one way."""
