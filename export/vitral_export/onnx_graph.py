"""torch's exporter, and a graph without traces of the machine that it ran on."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from onnx import external_data_helper, numpy_helper
from torch import nn

from vitral.errors import InvalidArgumentError, ProofError
from vitral.v1 import model_pb2 as pb
from vitral_export import weights
from vitral_export.dynamic_size import is_dynamic, row_shape, sizes
from vitral_export.loaded import Loaded
from vitral_export.trace import quiet_exporter, trace
from vitral_export.wrap import PREFIX, Inference

OPSETS = range(18, 24)
"""Operator sets that can be asked for."""

DEFAULT_OPSET = 20
"""Operator set unless another is asked for."""

ATTENTION_OPSET = 23
"""First operator set with attention as one operator."""

FLOAT_FILE = "model.onnx"
"""The float32 graph, which every artifact has."""

_OUTPUT = "vitral_output_"
_FROM_TORCH = "torch.bin"
_SCOPES = "pkg.torch.onnx.name_scopes"
_NOWHERE = "_empty_nn_module_stack_from_metadata_hook"  # torch's for what belongs to no submodule
TRACED_BATCH = 2
"""Batch of the example: torch takes an extent of 1 for a constant."""


def check_opset(opset: int) -> None:
    """Refuses operator sets outside the range.

    Raises:
        InvalidArgumentError: with the range.
    """
    if opset not in OPSETS:
        raise InvalidArgumentError(f"opset {opset} is not supported; {OPSETS[0]} to {OPSETS[-1]} are")


def export(wrapped: Inference, loaded: Loaded, *, opset: int, scratch: Path) -> onnx.ModelProto:
    """The float32 graph with dynamic batch, its names readable, its weights in a file in `scratch`.

    Copies of the graph are small so, and no more weights are in memory than torch made.

    Raises:
        ProofError: torch could not export the module.
    """
    names, size, patch = {0: "batch"}, None, None
    if is_dynamic(loaded.architecture):
        names |= {2: "height", 3: "width"}
        size, sides = sizes(loaded.architecture).traced, loaded.architecture.patch_size
        patch = (sides.height, sides.width)
    shape = (TRACED_BATCH, *row_shape(loaded.input.axes, size))
    traced = trace(wrapped, shape, patch=patch, attention=opset >= ATTENTION_OPSET)
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                traced,
                (torch.zeros(shape),),
                dynamo=True,
                # Names as strings: torch.export.Dim would let torch freeze an extent without a word.
                dynamic_shapes=(names,),
                opset_version=opset,
                input_names=[loaded.input.name],
                output_names=[f"{_OUTPUT}{index}" for index in range(len(loaded.outputs))],
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its passes raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ProofError(f"torch could not export {loaded.architecture.module}: {first}") from error
    assert program is not None
    onnx_ir.external_data.unload_from_model(program.model, scratch, _FROM_TORCH)
    model = program.model_proto
    for item in model.graph.initializer:
        if external_data_helper.uses_external_data(item) and not weights.is_weight(item):
            weights.bring_in(item, scratch)
    _clean(model, wrapped.module, scratch)
    _name_outputs(model.graph, [item.name for item in loaded.outputs])
    _name_extents(model.graph, loaded)
    _restore_biases(model.graph, wrapped.module)
    return model


def save(folder: Path, graphs: dict[str, onnx.ModelProto], *, scratch: Path) -> None:
    """Writes the graphs by file name and their one weights file, and lets onnx check what was written.

    Their weights so far are inside, or in files of `scratch`.

    Raises:
        ProofError: onnx's checker refuses a graph.
    """
    write(folder, graphs, scratch=scratch)
    for name in graphs:
        try:
            onnx.checker.check_model(str(folder / name), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ProofError(f"signature: onnx's checker refuses {name}: {error}") from error


def write(folder: Path, graphs: dict[str, onnx.ModelProto], *, scratch: Path | None = None) -> None:
    """The same, without asking the checker, which knows no operators of other runtimes."""
    weights.write(folder, list(graphs.values()), scratch=scratch)
    for name, model in graphs.items():
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))


def _clean(model: onnx.ModelProto, module: nn.Module, scratch: Path) -> None:
    """Strips metadata (it holds absolute paths and source lines) and gives readable names."""
    graph = model.graph
    _rename_weights(graph, module, scratch)
    taken: set[str] = set()
    for node in graph.node:
        node.name = _unused(f"{_scope(node)}{node.op_type}", taken)
    held = {item.name for item in graph.initializer}
    shapes = [item for item in graph.value_info if item.name not in held]
    del graph.value_info[:]
    graph.value_info.extend(shapes)
    places: list[Any] = [model, graph, *graph.node, *graph.initializer, *graph.value_info]
    for place in (*places, *graph.input, *graph.output):
        del place.metadata_props[:]
        place.ClearField("doc_string")
    graph.name = "vitral"
    model.producer_name, model.producer_version = "vitral", ""


def _rename_weights(graph: onnx.GraphProto, module: nn.Module, scratch: Path) -> None:
    """Initialisers take the names that the module's own state dict has, turned ones with `.transposed`."""
    new = {item.name: item.name.removeprefix(PREFIX) for item in graph.initializer}
    turned = {
        (tuple(parameter.T.shape), weights.digest(parameter.detach().T.numpy())): f"{name}.transposed"
        for name, parameter in reversed(list(module.named_parameters()))
        if parameter.dim() == 2
    }
    for item in graph.initializer:
        if new[item.name] == item.name and len(item.dims) == 2:
            array = weights.array(item, scratch)
            new[item.name] = turned.get((array.shape, weights.digest(array)), item.name)
    taken = {name for node in graph.node for name in node.output}  # an output may have a parameter's name
    for old, name in new.items():
        if name in taken:
            new[old] = old
        taken.add(new[old])
    for item in graph.initializer:
        item.name = new[item.name]
    for info in graph.value_info:
        info.name = new.get(info.name, info.name)
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]


def _name_outputs(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Gives the outputs their names; a tensor inside that torch called so, after an operator, makes room."""
    new = {f"{_OUTPUT}{index}": name for index, name in enumerate(names)}
    new |= {name: f"{name}.inner" for name in names}
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for info in (*graph.value_info, *graph.output):
        info.name = new.get(info.name, info.name)


def extent_name(item: pb.Output, axis: pb.Axis) -> str:
    """The name of a dynamic extent of an output.

    Each output has names of its own: onnxruntime takes extents of one name for equal, and tokens may be
    counted with a prefix or without.
    """
    return axis.name if axis.name == "batch" else f"{item.name}_{axis.name}"


def _name_extents(graph: onnx.GraphProto, loaded: Loaded) -> None:
    """Gives the dynamic extents of the outputs their names; what came out frozen stays as it is."""
    for info, item in zip(graph.output, loaded.outputs, strict=True):
        for dim, axis in zip(info.type.tensor_type.shape.dim, item.axes, strict=False):
            if dim.HasField("dim_param") and not axis.size:
                dim.dim_param = extent_name(item, axis)


def _restore_biases(graph: onnx.GraphProto, module: nn.Module) -> None:
    """Gives convolutions and Gemms back the biases that torch's exporter drops where they are all zero.

    Left out they give the same numbers, but another graph: whatever the weights, it has to be the module's.
    """
    parameters = dict(module.named_parameters())
    held = {item.name for item in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) != 2:
            continue
        owner, dot, leaf = node.input[1].rpartition(".")
        name = f"{owner}{dot}bias"
        if leaf != "weight" or name not in parameters:
            continue
        if name not in held:
            graph.initializer.append(numpy_helper.from_array(parameters[name].detach().numpy(), name))
            held.add(name)
        node.input.append(name)


def _scope(node: onnx.NodeProto) -> str:
    """`encoder/layer/0/` for a node of the submodule `encoder.layer.0`."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes: Sequence[str] = ast.literal_eval(entry.value)
            path = scopes[-2].removeprefix(PREFIX.rstrip(".")).strip(".") if len(scopes) > 1 else ""
            return f"{path.replace('.', '/')}/" if path and path != _NOWHERE else ""
    return ""


def _unused(name: str, taken: set[str]) -> str:
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free
