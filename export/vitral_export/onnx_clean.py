"""A stranger's graph made plain: no traces of its machine, only what the outputs need, names of our own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, inliner, numpy_helper

from vitral_export.onnx_file import graphs, tensors

_UNSAID = re.compile(r"[^A-Za-z0-9_./-]+")
_IR = 8  # weights need not be inputs from 4 on, and every runtime reads 8


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without functions, metadata, constants as nodes, and weights as inputs."""
    model = inliner.inline_local_functions(model) if model.functions else model
    _strip(model)
    graph = model.graph
    _lift_constants(graph)
    held = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in held]
    del graph.input[:]
    graph.input.extend(inputs)
    _name_nodes(graph)
    _drop_domains(model)
    model.ir_version = max(model.ir_version, _IR)
    return model


def cut(graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
    """Leaves these outputs, in this order, and what they need."""
    by_name = {item.name: item for item in graph.output}
    kept = [by_name[name] for name in outputs]
    del graph.output[:]
    graph.output.extend(kept)
    needed, nodes = set(outputs), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= _taken(node)
    nodes.reverse()
    del graph.node[:]
    graph.node.extend(nodes)
    weights = [item for item in graph.initializer if item.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Gives tensors other names; whatever had one of these inside makes room."""
    new = {name: f"{name}.inner" for name in names.values() if name not in names} | dict(names)
    for graph in graphs(model):
        for node in graph.node:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]
        places: list[Any] = [*graph.input, *graph.output, *graph.initializer]
        for item in places:
            item.name = new.get(item.name, item.name)


def shape(info: onnx.ValueInfoProto, extents: Sequence[int]) -> None:
    """Says float32 of these extents, behind a dynamic batch, of an input or output."""
    axes: list[str | int | None] = ["batch", *extents]
    info.CopyFrom(helper.make_tensor_value_info(info.name, TensorProto.FLOAT, axes))


def clean_name(name: str) -> str:
    """A name that callers can type: `output_1` of `/output:1`."""
    cleaned = re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.")
    return cleaned if cleaned[:1].isalpha() else f"output_{cleaned}".rstrip("_")


def _taken(node: NodeProto) -> set[str]:
    """Tensors that a node takes, those that the graphs inside it take from around it too."""
    taken = {name for name in node.input if name}
    for item in node.attribute:
        for inner in (*item.graphs, *([item.g] if item.HasField("g") else [])):
            taken |= {name for one in inner.node for name in _taken(one)}
            taken |= {output.name for output in inner.output}
    return taken


def _strip(model: onnx.ModelProto) -> None:
    """Drops what names people, machines and source lines, and what says nothing about values."""
    for field in ("doc_string", "domain", "model_version", "metadata_props", "training_info", "functions"):
        model.ClearField(field)
    model.producer_name, model.producer_version = "vitral", ""
    for opset in model.opset_import:
        if opset.domain == "ai.onnx":
            opset.domain = ""
    for graph in graphs(model):
        graph.name = "vitral"
        for field in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
            graph.ClearField(field)
        attributes = [item for node in graph.node for item in node.attribute]
        places: list[Any] = [*graph.node, *graph.input, *graph.output, *tensors(model)]
        for place in places:
            place.ClearField("metadata_props")
            place.ClearField("doc_string")
        for item in attributes:
            item.ClearField("doc_string")


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Constants among the nodes become weights, by which they are found and compared."""
    outputs = {item.name for item in graph.output}
    kept = []
    for node in graph.node:
        constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx")
        held = _constant(node) if constant and node.output[0] not in outputs else None
        if held is None:
            kept.append(node)
        else:
            graph.initializer.append(held)
    del graph.node[:]
    graph.node.extend(kept)


def _constant(node: NodeProto) -> TensorProto | None:
    (item,) = node.attribute
    if item.name == "value":
        held = TensorProto()
        held.CopyFrom(item.t)
        held.name = node.output[0]
        return held
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64}
    kind = (kinds | {"value_ints": np.int64}).get(item.name)
    if kind is None:
        return None
    return numpy_helper.from_array(np.array(helper.get_attribute_value(item), kind), node.output[0])


def _drop_domains(model: onnx.ModelProto) -> None:
    """Leaves the operator sets that a node is of: onnxruntime lists all it knows."""
    used = {node.domain for graph in graphs(model) for node in graph.node} | {""}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Every node has a name of its own."""
    taken: set[str] = set()
    for node in graph.node:
        name = _UNSAID.sub("_", node.name).strip("/_.") or node.op_type
        free, count = name, 1
        while free in taken:
            count += 1
            free = f"{name}_{count}"
        taken.add(free)
        node.name = free
