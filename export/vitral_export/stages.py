"""The stages of a module, one row each: what goes in, what comes out, what happens.

They are read from the module's own traced program, so that the table cannot say what the module does not do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from vitral_export import sources, torch_operations
from vitral_export.loaded import Loaded
from vitral_export.onnx_graph import TRACED_BATCH
from vitral_export.operations import INPUT, Operand, Operation, Program, Shape, Weight, index_of
from vitral_export.wrap import Inference


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    Attributes:
        stage: name of the step.
        input: shape of what it takes, B for the batch.
        output: shape of what it gives.
        what: what happens, in words.
    """

    stage: str
    input: str
    output: str
    what: str


def stages(source: Loaded | nn.Module) -> list[Stage]:
    """Every step of a source or a module from the input to the outputs, in order.

    Raises:
        ProofError: the module has an operator there is no rule for.
    """
    loaded = sources.given(source) if isinstance(source, nn.Module) else source
    shape = [axis.size or TRACED_BATCH for axis in loaded.input.axes]
    program = torch_operations.read(Inference(loaded), shape)
    results = {
        index_of(operand): output.name
        for output, operand in zip(loaded.outputs, program.outputs, strict=True)
        if isinstance(operand, str) and operand != INPUT
    }
    rows: list[Stage] = []
    for index, step in enumerate(program.steps):
        row = _stage(program, step, (None, *shape[1:]))
        if index in results:
            row = replace(row, what=f"{row.what} -> {results[index]}")
        if (
            index and step.kind == "Add" and program.steps[index - 1].name == step.name
        ):  # a linear layer's bias
            row = replace(rows[-1], what=f"{rows.pop().what}, {row.what}")
        rows.append(row)
    return rows


def _stage(program: Program, step: Operation, given: Shape) -> Stage:
    shapes = [_shape_of(item, program, given) for item in step.operands if not isinstance(item, Weight)]
    weights = [item for item in step.operands if isinstance(item, Weight)]
    taken = " and ".join(dict.fromkeys(_said(shape) for shape in shapes or [weights[0].array.shape]))
    title, what = _words(step, [item.name for item in weights], program)
    return Stage(title, taken, _said(step.shape), what)


def _shape_of(operand: Operand, program: Program, given: Shape) -> Shape:
    if isinstance(operand, Weight):
        return operand.array.shape
    return given if operand == INPUT else program.steps[index_of(operand)].shape


def _said(shape: Shape) -> str:
    return " x ".join("B" if extent is None else str(extent) for extent in shape) or "one number"


def _words(step: Operation, weights: list[str], program: Program) -> tuple[str, str]:
    """The name of a step and what it does; by its operator, and by the weights it takes."""
    names = " and ".join(weights)
    by_weight = {
        "Add": (
            "position embedding" if "position" in names or "_embed" in names else "bias",
            f"adds {names}",
        ),
        "Conv": ("convolution", f"{_strides(step)}: projects each patch with {names}"),
        "Expand": ("token for each image", f"repeats {names} over the batch"),
        "LayerNormalization": ("layer norm", f"mean 0 and variance 1 (eps {_epsilon(step)}), then {names}"),
        "MatMul": ("linear", f"multiplies with {names}"),
        "Mul": ("scale", f"times {names}"),
    }
    plain = {
        "Add": ("sum", "adds both: a residual connection"),
        "Concat": (_front(step, program), f"side by side along axis {step.attributes.get('axis')}"),
        "Gather": ("select", f"one entry of axis {step.attributes.get('axis')}"),
        "Gelu": ("GELU", "activation"),
        "MatMul": ("matrix product", "multiplies both"),
        "ReduceMean": ("mean", f"over axes {step.attributes.get('axes')}"),
        "Reshape": ("reshape", "the same values in another shape"),
        "Slice": ("slice", _slice(step)),
        "Softmax": ("softmax", f"along axis {step.attributes.get('axis')}"),
        "Tanh": ("tanh", "activation"),
        "Transpose": ("permute", f"axes in the order {step.attributes.get('perm')}"),
    }
    known = by_weight if weights and step.kind in by_weight else plain
    return known.get(step.kind, (step.kind.lower(), f"with {names}" if names else step.kind.lower()))


def _front(step: Operation, program: Program) -> str:
    """A token that was repeated for each image, put in front of the patches; or just parts."""
    first = step.operands[0]
    repeated = isinstance(first, str) and first != INPUT and program.steps[index_of(first)].kind == "Expand"
    return "token in front" if repeated else "concatenate"


def _strides(step: Operation) -> str:
    return f"stride {' x '.join(map(str, step.attributes.get('strides', ())))}"


def _epsilon(step: Operation) -> str:
    return f"{step.attributes.get('epsilon', 0):.3g}"


def _slice(step: Operation) -> str:
    told = step.attributes
    return f"{told.get('start')} up to {told.get('end')} of axis {told.get('axis')}"
