"""The structural net: signature, parameters, steps and constants of a graph are the module's own.

Numbers alone cannot see a small fault: one scalar weight off by a thousandth moves an output by no more than
float32 itself does. So each written graph is read back and held against the module, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from vitral import spec as specs
from vitral import tensors
from vitral.errors import ProofError
from vitral.v1 import model_pb2 as pb
from vitral_export import onnx_operations, progress, torch_operations
from vitral_export.builder import Builder, needed
from vitral_export.dynamic_size import Size, is_dynamic, row_shape, said, sizes
from vitral_export.fold import CENTRE, plan
from vitral_export.onnx_graph import TRACED_BATCH, extent_name
from vitral_export.operations import INPUT, Operand, Program, Weight, differences
from vitral_export.precision import programs
from vitral_export.weights import digest
from vitral_export.wrap import Inference


def check(folder: Path, spec: pb.ModelSpec, wrapped: Inference) -> list[str]:
    """What the graphs of a version folder do otherwise than the module; empty when nothing.

    Raises:
        ProofError: the module has an operator that cannot be compared.
    """
    found = []
    for size in compared(spec):
        found += compare(folder, spec, read(wrapped, spec, size=size), size=size)
    return found


def compared(spec: pb.ModelSpec) -> tuple[Size | None, ...]:
    """Image sizes at which graph and module are compared; None for the only one of a model of static size."""
    return sizes(spec.architecture).compared if is_dynamic(spec.architecture) else (None,)


def compare(folder: Path, spec: pb.ModelSpec, own: Program, *, size: Size | None = None) -> list[str]:
    """What the graphs of a version folder do otherwise than these steps; empty when nothing.

    `size` is that of the images for which the steps of a model of dynamic size were read.
    """
    found = []
    for graph in progress.each("structure of graphs", spec.graphs):
        model = onnx.load(folder / graph.file, load_external_data=False)
        told = problems(model, graph, spec, expected(own, graph, spec, size=size), folder, size=size)
        where = graph.file if size is None else f"{graph.file} at {said(size)}"
        found += [f"{where}: {problem}" for problem in told]
    return found


def demand(found: Sequence[str]) -> None:
    """Refuses a graph with problems.

    Raises:
        ProofError: with the first problem and their number.
    """
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ProofError(f"structure: {found[0]}{more}")


def read(wrapped: Inference, spec: pb.ModelSpec, *, size: Size | None = None) -> Program:
    """The module's own steps, traced afresh: at one size, the native one where none is given.

    Raises:
        ProofError: the module has an operator that cannot be compared.
    """
    dynamic = is_dynamic(spec.architecture)
    if dynamic and size is None:
        size = sizes(spec.architecture).native
    shape = (TRACED_BATCH, *row_shape(specs.float_graph(spec).input.axes, size))
    return torch_operations.read(wrapped, shape, sized=dynamic)


def expected(own: Program, graph: pb.Graph, spec: pb.ModelSpec, *, size: Size | None = None) -> Program:
    """The steps that a graph has to have, from the module's own: those that its outputs need."""
    whole = folded(own, spec.preprocessing, size=size) if graph.input.folded else own
    behind = {item.name: operand for item, operand in zip(spec.outputs, whole.outputs, strict=True)}
    steps = needed(whole.steps, [behind[name] for name in graph.outputs], whole.input)
    return programs.expected(steps, spec.precision, uint8=graph.input.folded)


def folded(own: Program, preprocessing: pb.Preprocessing, *, size: Size | None = None) -> Program:
    """The steps of the uint8 graph, recomputed from the module's.

    `size` is that of the images where it is not the one of the preprocessing.

    Raises:
        UnsupportedError: the module does not begin with an operator that can be folded into.
    """
    folding = plan(own)
    weight, bias = folding.pair(preprocessing)
    native = specs.input_size(preprocessing)
    height, width = size or (native.height, native.width)
    builder = Builder((None, height, width, 3))
    perm = {"perm": (0, 3, 1, 2)}
    pixels = builder.add("Transpose", [INPUT], name="pixels", shape=(None, 3, height, width), attributes=perm)
    new: dict[Operand, Operand] = {INPUT: pixels}
    for index, step in enumerate(own.steps):
        operands = [new.get(item, item) if isinstance(item, str) else item for item in step.operands]
        if index == folding.projection:
            operands = [_centred(builder, operands[0]), weight, bias]
            if step.kind == "MatMul":
                turned = Weight(weight.name, weight.array.T)
                operands = [operands[0], turned]
        elif index == folding.sum:
            operands = [operands[0], bias]
        done = builder.add(step.kind, operands, name=step.name, shape=step.shape, attributes=step.attributes)
        if index == folding.projection and step.kind == "MatMul" and folding.sum is None:
            done = builder.add("Add", [done, bias], name=step.name, shape=step.shape)
        new[f"#{index}"] = done
    return builder.finish([new.get(item, item) for item in own.outputs])


def _centred(builder: Builder, pixels: Operand) -> Operand:
    shape = builder.shape_of(pixels)
    to = {"to": int(onnx.TensorProto.FLOAT)}
    wide = builder.add("Cast", [pixels], name="pixels", shape=shape, attributes=to)
    centre = Weight("pixels_centre", np.array(CENTRE, np.float32))
    return builder.add("Sub", [wide, centre], name="pixels", shape=shape)


def problems(
    model: onnx.ModelProto,
    graph: pb.Graph,
    spec: pb.ModelSpec,
    steps: Program,
    folder: Path | None = None,
    *,
    size: Size | None = None,
) -> list[str]:
    """What a graph does otherwise than these steps; empty when nothing.

    Its external weights are in `folder`, or loaded.
    """
    told = _signature(model, graph, spec)
    try:
        found = onnx_operations.read(model, folder, size=size)
    except ValueError as error:
        return [*told, str(error)]
    told += differences(found, steps)
    held = {(weight.array.dtype, digest(weight.array)) for weight in found.weights()}
    for weight in steps.weights():
        forms = ((weight.array.dtype, digest(form)) for form in (weight.array, weight.array.T))
        if held.isdisjoint(forms):  # as it is, reshaped, or transposed
            told.append(f"parameter {weight.name} is nowhere in the graph bit for bit")
    return told


def _signature(model: onnx.ModelProto, graph: pb.Graph, spec: pb.ModelSpec) -> list[str]:
    """Names, types and axes that are not those asked for."""
    taken = graph.input
    asked = [_described(taken.name, taken.dtype, [axis.size or axis.name for axis in taken.axes])]
    for name in graph.outputs:
        item = specs.output(spec, name)
        extents = [axis.size or extent_name(item, axis) for axis in item.axes]
        asked.append(_described(name, item.dtype, extents))
    given = [_described_info(info) for info in (*model.graph.input, *model.graph.output)]
    pairs = zip(given, asked, strict=False)
    problems = [f"signature has {mine}, {its} was asked for" for mine, its in pairs if mine != its]
    if len(given) != len(asked):
        problems.append(f"signature has {len(given)} tensors, {len(asked)} were asked for")
    opsets = [(item.domain, item.version) for item in model.opset_import]
    if opsets != [("", spec.opset)]:
        problems.append(f"operator sets are {opsets}, {spec.opset} was asked for")
    return problems


def _described(name: str, dtype: int, extents: Sequence[int | str]) -> str:
    return f"{name} {tensors.numpy_dtype(dtype).name} ({', '.join(map(str, extents))})"


def _described_info(info: onnx.ValueInfoProto) -> str:
    tensor = info.type.tensor_type
    extents = ", ".join(str(item.dim_param or item.dim_value) for item in tensor.shape.dim)
    return f"{info.name} {helper.tensor_dtype_to_np_dtype(tensor.elem_type).name} ({extents})"
