"""The uint8 graph: rescale and normalisation folded into the first projection.

    x = (u r - mean) / std  and  y = W x + b   give   y = W' (u - 128) + b'
    W' = W r / std                       per channel; r is the rescale factor, usually 1/255
    b' = b + sum W (128 r - mean) / std

Around u - 128 the float32 error stays that of the unfolded form; around u it would double.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from vitral import spec as specs
from vitral.errors import InvalidArgumentError, ProofError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export import contract, onnx_operations
from vitral_export.graph_edits import drop_unused, insert, moved
from vitral_export.loaded import axes
from vitral_export.operations import INPUT, Operation, Program, Weight, of_one

UINT8_FILE = "model_uint8.onnx"
"""The graph that takes uint8 pixels."""

CENTRE = 128
"""Middle of the pixel values, subtracted in the graph."""

SUFFIX = ".folded"
"""What a folded tensor's name ends with."""

_PIXELS = "pixels"
_MOVES = ("Reshape", "Transpose")


@dataclass(frozen=True)
class Folding:
    """Where normalisation goes into.

    Attributes:
        moves: steps between the input and the projection, which only move values.
        projection: the step that takes them: a Conv, or a MatMul with a constant.
        sum: the step behind a MatMul that adds its bias; None where there is none, or for a Conv.
        weight: the module's own, (D, C, P, P) or (D, F).
        bias: the module's own, (D,).
        channels: channel of each value that a row of the weight is multiplied with, (C, 1, 1) or (F,).
    """

    moves: tuple[int, ...]
    projection: int
    sum: int | None
    weight: Weight
    bias: Weight | None
    channels: NDArray[np.int64]

    def pair(self, preprocessing: pb.Preprocessing) -> tuple[Weight, Weight]:
        """Weight and bias with normalisation in them, in the module's own layout."""
        bias = None if self.bias is None else self.bias.array
        weight, shift = folded_weights(self.weight.array, bias, preprocessing, channels=self.channels)
        name = bias_beside(self.weight.name) if self.bias is None else self.bias.name
        return Weight(self.weight.name + SUFFIX, weight), Weight(name + SUFFIX, shift)


def pixels_input(preprocessing: pb.Preprocessing, *, dynamic: bool = False) -> pb.GraphInput:
    """The input `pixels`: uint8 (B, H, W, 3)."""
    size = tensor_pb2.ImageSize() if dynamic else specs.input_size(preprocessing)
    return pb.GraphInput(
        name=_PIXELS,
        dtype=tensor_pb2.DATA_TYPE_UINT8,
        axes=axes(batch=0, height=size.height, width=size.width, channel=3),
        folded=True,
    )


def folded_weights(
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    preprocessing: pb.Preprocessing,
    *,
    channels: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """W' of the weight's shape (D, ...) and b' (D,), computed in float64 and rounded once.

    `channels` broadcasts against one row of the weight; by default that of a convolution, (C, 1, 1).

    Raises:
        InvalidArgumentError: a folded value is too large for float32.
    """
    which = np.arange(3)[:, None, None] if channels is None else channels
    wide = weight.astype(np.float64)
    mean, std = (np.array(item, np.float64)[which] for item in (preprocessing.mean, preprocessing.std))
    rescale = preprocessing.rescale_factor
    shift = (wide * ((CENTRE * rescale - mean) / std)).sum(axis=tuple(range(1, wide.ndim)))
    start = np.zeros(len(wide)) if bias is None else bias.astype(np.float64)
    with np.errstate(over="ignore"):
        pair = (wide * (rescale / std)).astype(np.float32), (start + shift).astype(np.float32)
    if not all(np.isfinite(item).all() for item in pair):
        raise InvalidArgumentError("the weights overflow float32 once normalisation is folded into them")
    return pair


def bias_beside(weight_name: str) -> str:
    """Name of the bias that folding adds to a layer that has none."""
    return f"{weight_name.rpartition('.')[0]}.bias"


def plan(program: Program) -> Folding:
    """Where normalisation can be folded into.

    Raises:
        UnsupportedError: what first computes with the input is nothing this can fold into.
    """
    moves: list[int] = []
    at, step = _only_user(program, INPUT)
    while step.kind in _MOVES:
        moves.append(at)
        at, step = _only_user(program, f"#{at}")
    weight = step.operands[1] if len(step.operands) > 1 else None
    _demand_only_use(program, at)
    if step.kind == "Conv" and isinstance(weight, Weight) and not moves:
        if any(step.attributes["pads"]):
            # A padded zero is 0 after normalisation, but 128 levels off before it.
            raise UnsupportedError("normalisation cannot be folded into a padded convolution")
        bias = step.operands[2] if len(step.operands) > 2 else None
        held = bias if isinstance(bias, Weight) else None
        return Folding((), at, None, weight, held, np.arange(weight.array.shape[1])[:, None, None])
    if step.kind == "MatMul" and isinstance(weight, Weight):
        channels = _channels([program.steps[index] for index in moves])
        own = Weight(weight.name, weight.array.T)
        after, bias = _bias_behind(program, at, len(own.array))
        return Folding(tuple(moves), at, after, own, bias, channels)
    raise UnsupportedError(f"normalisation cannot be folded into {step.kind}")


def _only_user(program: Program, operand: str) -> tuple[int, Operation]:
    users = [(index, step) for index, step in enumerate(program.steps) if operand in step.operands]
    if len(users) != 1 or operand in program.outputs:
        kinds = ", ".join(step.kind for _, step in users)
        raise UnsupportedError(f"normalisation cannot be folded into {kinds or 'nothing'}")
    return users[0]


def _demand_only_use(program: Program, at: int) -> None:
    """Refuses a matrix that another step takes too, turned or not: that one stays as it is."""
    mine = [item.array for item in program.steps[at].operands if isinstance(item, Weight)]
    steps = (step for index, step in enumerate(program.steps) if index != at)
    for item in (item for step in steps for item in step.operands if isinstance(item, Weight)):
        for array in mine:
            same = array.ndim > 1 and item.array.dtype == array.dtype and item.array.size == array.size
            if same and item.array.tobytes() in (array.tobytes(), array.T.tobytes()):
                raise UnsupportedError(f"normalisation cannot be folded into {item.name}, used twice")


def _bias_behind(program: Program, at: int, width: int) -> tuple[int | None, Weight | None]:
    """The step that does nothing but add a bias to the product, and that bias."""
    users = [(index, step) for index, step in enumerate(program.steps) if f"#{at}" in step.operands]
    if len(users) == 1 and f"#{at}" not in program.outputs:
        index, step = users[0]
        bias = step.operands[-1]
        if step.kind == "Add" and isinstance(bias, Weight) and bias.array.shape == (width,):
            return index, bias
    return None, None


def _channels(moves: Sequence[Operation]) -> NDArray[np.int64]:
    """The channel of each value of a projected vector, found by moving channel numbers as the steps do."""
    if not moves:
        raise UnsupportedError("normalisation cannot be folded into a product along the width of an image")
    first = moves[0]
    source = _image_shape(first)
    numbers = np.broadcast_to(np.arange(source[0])[:, None, None], source)[None]
    for step in moves:
        if step.kind == "Transpose":
            numbers = numbers.transpose(step.attributes["perm"])
        else:
            numbers = numbers.reshape(of_one(step.shape))
    rows = numbers.reshape(-1, numbers.shape[-1])
    if (rows != rows[0]).any():
        raise UnsupportedError(
            "normalisation cannot be folded: the projected vectors mix channels differently"
        )
    return np.ascontiguousarray(rows[0])


def _image_shape(step: Operation) -> tuple[int, ...]:
    """(C, H, W) of an image that a step moves into (B, C, H/P, P, W/P, P)."""
    shape = of_one(step.shape)
    if step.kind != "Reshape" or len(shape) != 6:
        raise UnsupportedError(f"normalisation cannot be folded behind a {step.kind} to {step.shape}")
    _, channels, rows, height, columns, width = shape
    return channels, rows * height, columns * width


def fold(
    model: onnx.ModelProto,
    input_name: str,
    preprocessing: pb.Preprocessing,
    *,
    folder: Path | None = None,
    size: tuple[int, int] | None = None,
) -> onnx.ModelProto:
    """The uint8 graph of a float32 graph whose weights are inside, or in files of `folder`.

    One of dynamic size is read at `size`.

    Raises:
        UnsupportedError: the contract's pixels are not uint8, or what first computes with the input is
            nothing this can fold into.
        ProofError: the graph has a form of which it cannot be told what it computes.
    """
    if why := contract.no_uint8(preprocessing):
        raise UnsupportedError(why)
    try:
        program = onnx_operations.read(model, folder, size=size)
    except ValueError as error:
        raise ProofError(f"structure: the exported graph cannot be compared: {error}") from error
    return fold_into(model, program, input_name, preprocessing)


def fold_into(
    model: onnx.ModelProto, program: Program, input_name: str, preprocessing: pb.Preprocessing
) -> onnx.ModelProto:
    """The same, of a graph whose steps up to the projection, at least, are these.

    Raises:
        UnsupportedError: what first computes with the input is nothing this can fold into.
    """
    folding = plan(program)
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    nodes = {node.name: node for node in graph.node}
    path = moved(graph, nodes[program.steps[folding.projection].name].input[0])
    kept = [info for info in graph.value_info if info.name not in path]  # those are uint8 from now on
    del graph.value_info[:]
    graph.value_info.extend(kept)
    _replace_weights(graph, nodes, program, folding, preprocessing)
    _replace_input(graph, nodes[program.steps[folding.projection].name], input_name, preprocessing)
    drop_unused(graph)
    return folded


def _replace_weights(
    graph: onnx.GraphProto,
    nodes: dict[str, onnx.NodeProto],
    program: Program,
    folding: Folding,
    preprocessing: pb.Preprocessing,
) -> None:
    weight, shift = folding.pair(preprocessing)
    projection = nodes[program.steps[folding.projection].name]
    turned = projection.op_type == "MatMul"
    array = np.ascontiguousarray(weight.array.T) if turned else weight.array
    graph.initializer.append(numpy_helper.from_array(array, weight.name))
    graph.initializer.append(numpy_helper.from_array(shift.array, shift.name))
    if not turned:
        projection.input[1:] = [weight.name, shift.name]
        return
    projection.input[1] = weight.name
    if folding.sum is not None and folding.bias is not None:
        adding = nodes[program.steps[folding.sum].name]
        adding.input[:] = [shift.name if name == folding.bias.name else name for name in adding.input]
        return
    output = projection.output[0]
    projection.output[0] = f"{output}_product"
    adding = helper.make_node("Add", [projection.output[0], shift.name], [output], f"{projection.name}/Add")
    insert(graph, list(graph.node).index(projection) + 1, [adding])


def _replace_input(
    graph: onnx.GraphProto, projection: onnx.NodeProto, input_name: str, preprocessing: pb.Preprocessing
) -> None:
    """Puts uint8 NHWC pixels where the float32 NCHW input was; they stay uint8 up to the projection."""
    source = projection.input[0]
    # Moved while a value is one byte: four times less to move.
    first = helper.make_node("Transpose", [_PIXELS], ["pixels_nchw"], "pixels/Transpose", perm=[0, 3, 1, 2])
    for node in graph.node:
        node.input[:] = ["pixels_nchw" if name == input_name else name for name in node.input]
    taken = "pixels_nchw" if source == input_name else source
    centred = [
        helper.make_node("Cast", [taken], ["pixels_float"], "pixels/Cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels_float", "pixels_centre"], ["pixels_centred"], "pixels/Sub"),
    ]
    projection.input[0] = "pixels_centred"
    insert(graph, list(graph.node).index(projection), centred)
    insert(graph, 0, [first])
    graph.initializer.append(numpy_helper.from_array(np.array(CENTRE, np.float32), "pixels_centre"))
    size = specs.input_size(preprocessing)
    fixed = graph.input[0].type.tensor_type.shape.dim[2].HasField("dim_value")
    sides = (size.height, size.width) if fixed else ("height", "width")
    shape: list[str | int | None] = ["batch", *sides, 3]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(_PIXELS, onnx.TensorProto.UINT8, shape))
