"""The structural net: signature, parameters, steps and constants of a graph are the module's own.

Numbers alone cannot see a small fault: one scalar weight off by a thousandth moves an output by no more than
float32 itself does. So each written graph is read back and held against the module, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import nn

from vitral import spec as specs
from vitral import tensors
from vitral.errors import ProofError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_export import onnx_operations, torch_operations
from vitral_export.fold import CENTRE, SUFFIX, bias_beside, folded_conv
from vitral_export.operations import INPUT, Operation, Program, Weight, differences
from vitral_export.wrap import Inference


def check(folder: Path, spec: pb.ModelSpec, wrapped: Inference) -> list[str]:
    """What the graphs of a version folder do otherwise than the module; empty when nothing.

    Raises:
        ProofError: the module has an operator that cannot be compared.
    """
    shape = [axis.size or 2 for axis in specs.float_graph(spec).input.axes]
    own = torch_operations.read(wrapped, shape)
    problems = []
    for graph in spec.graphs:
        expected = folded(own, spec.preprocessing) if graph.input.folded else own
        found = _check_graph(folder / graph.file, graph, spec, expected, wrapped.module)
        problems += [f"{graph.file}: {problem}" for problem in found]
    return problems


def demand(problems: Sequence[str]) -> None:
    """Refuses a graph with problems.

    Raises:
        ProofError: with the first problem and their number.
    """
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ProofError(f"structure: {problems[0]}{more}")


def folded(own: Program, preprocessing: pb.Preprocessing) -> Program:
    """The steps of the uint8 graph, recomputed from the module's.

    Raises:
        ProofError: the module does not begin with an operator that can be folded into.
    """
    first = own.steps[0]
    users = [step for step in own.steps if INPUT in step.operands]
    if first.kind != "Conv" or users != [first] or any(first.attributes["pads"]):
        raise ProofError(f"structure: normalisation cannot be folded into {first.kind}")
    weight, *rest = (item for item in first.operands if isinstance(item, Weight))
    bias = rest[0].array if rest else None
    pair = folded_conv(weight.array, bias, preprocessing)
    names = [weight.name + SUFFIX, (rest[0].name if rest else bias_beside(weight.name)) + SUFFIX]
    constant = Weight("pixels_centre", np.array(CENTRE, np.float32))
    before = [
        Operation("Transpose", {"perm": (0, 3, 1, 2)}, (INPUT,), "pixels"),
        Operation("Cast", {"to": int(onnx.TensorProto.FLOAT)}, ("#0",), "pixels"),
        Operation("Sub", {}, ("#1", constant), "pixels"),
    ]
    weights = (Weight(name, array) for name, array in zip(names, pair, strict=True))
    projection = Operation("Conv", first.attributes, ("#2", *weights), first.name)
    after = [_shifted(step, len(before)) for step in own.steps[1:]]
    outputs = tuple(_later(item, len(before)) for item in own.outputs)
    return Program((*before, projection, *after), outputs)


def _shifted(step: Operation, count: int) -> Operation:
    operands = tuple(_later(item, count) for item in step.operands)
    return Operation(step.kind, step.attributes, operands, step.name)


def _later(operand: str | Weight, count: int) -> str | Weight:
    if isinstance(operand, str) and operand.startswith("#"):
        return f"#{int(operand[1:]) + count}"
    return operand


def _check_graph(
    path: Path, graph: pb.Graph, spec: pb.ModelSpec, expected: Program, module: nn.Module
) -> list[str]:
    model = onnx.load(path)
    problems = _signature(model, graph, spec)
    try:
        found = onnx_operations.read(model)
    except ValueError as error:
        return [*problems, str(error)]
    problems += differences(found, expected)
    held = [numpy_helper.to_array(item) for item in model.graph.initializer]
    is_folded = _folded_names(expected)
    for name, parameter in module.named_parameters():
        if name not in is_folded and not _holds(held, parameter.detach().cpu().numpy()):
            problems.append(f"parameter {name} is nowhere in the graph bit for bit")
    return problems


def _folded_names(expected: Program) -> set[str]:
    names = (item.name for step in expected.steps for item in step.operands if isinstance(item, Weight))
    return {name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)}


def _holds(held: Sequence[Array], wanted: Array) -> bool:
    """Whether a parameter is there bit for bit: as it is, reshaped, or transposed."""
    forms = {wanted.tobytes(), np.ascontiguousarray(wanted.T).tobytes()}
    same_size = (item for item in held if item.size == wanted.size and item.dtype == wanted.dtype)
    return any(item.tobytes() in forms for item in same_size)


def _signature(model: onnx.ModelProto, graph: pb.Graph, spec: pb.ModelSpec) -> list[str]:
    """Names, types and axes that are not those asked for."""
    asked = [_described(graph.input.name, graph.input.dtype, graph.input.axes)]
    for name in graph.outputs:
        item = specs.output(spec, name)
        asked.append(_described(name, item.dtype, item.axes))
    given = [_described_info(info) for info in (*model.graph.input, *model.graph.output)]
    pairs = zip(given, asked, strict=False)
    problems = [f"signature has {mine}, {its} was asked for" for mine, its in pairs if mine != its]
    if len(given) != len(asked):
        problems.append(f"signature has {len(given)} tensors, {len(asked)} were asked for")
    opsets = {item.domain: item.version for item in model.opset_import}
    if opsets != {"": spec.opset}:
        problems.append(f"operator sets are {opsets}, {spec.opset} was asked for")
    return problems


def _described(name: str, dtype: int, axes: Sequence[pb.Axis]) -> str:
    extents = ", ".join(str(axis.size or axis.name) for axis in axes)
    return f"{name} {tensors.numpy_dtype(dtype).name} ({extents})"


def _described_info(info: onnx.ValueInfoProto) -> str:
    tensor = info.type.tensor_type
    extents = ", ".join(str(item.dim_param or item.dim_value) for item in tensor.shape.dim)
    return f"{info.name} {helper.tensor_dtype_to_np_dtype(tensor.elem_type).name} ({extents})"
