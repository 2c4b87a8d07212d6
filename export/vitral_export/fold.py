"""The uint8 graph: rescale and normalisation folded into the first projection.

    x = (u r - mean) / std  and  y = W x + b   give   y = W' (u - 128) + b'
    W' = W r / std                       per channel; r is the rescale factor, usually 1/255
    b' = b + sum W (128 r - mean) / std

Around u - 128 the float32 error stays that of the unfolded form; around u it would double.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from vitral import spec as specs
from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export.sources import axes

UINT8_FILE = "model_uint8.onnx"
"""The graph that takes uint8 pixels."""

CENTRE = 128
"""Middle of the pixel values, subtracted in the graph."""

SUFFIX = ".folded"
"""What a folded tensor's name ends with."""

_PIXELS = "pixels"


def pixels_input(preprocessing: pb.Preprocessing) -> pb.GraphInput:
    """The input `pixels`: uint8 (B, H, W, 3)."""
    size = specs.input_size(preprocessing)
    return pb.GraphInput(
        name=_PIXELS,
        dtype=tensor_pb2.DATA_TYPE_UINT8,
        axes=axes(batch=0, height=size.height, width=size.width, channel=3),
        folded=True,
    )


def folded_conv(
    weight: NDArray[np.float32], bias: NDArray[np.float32] | None, preprocessing: pb.Preprocessing
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """W' (D, 3, P, P) and b' (D,), computed in float64 and rounded once.

    Raises:
        InvalidArgumentError: a folded value is too large for float32.
    """
    wide = weight.astype(np.float64)
    mean, std = (
        np.array(item, np.float64)[:, None, None] for item in (preprocessing.mean, preprocessing.std)
    )
    rescale = preprocessing.rescale_factor
    shift = (wide * ((CENTRE * rescale - mean) / std)).sum(axis=(1, 2, 3))
    start = np.zeros(len(wide)) if bias is None else bias.astype(np.float64)
    with np.errstate(over="ignore"):
        pair = (wide * (rescale / std)).astype(np.float32), (start + shift).astype(np.float32)
    if not all(np.isfinite(item).all() for item in pair):
        raise InvalidArgumentError("the weights overflow float32 once normalisation is folded into them")
    return pair


def bias_beside(weight_name: str) -> str:
    """Name of the bias that folding adds to a layer that has none."""
    return f"{weight_name.rpartition('.')[0]}.bias"


def fold(model: onnx.ModelProto, input_name: str, preprocessing: pb.Preprocessing) -> onnx.ModelProto:
    """The uint8 graph of a float32 graph whose weights are inside.

    Raises:
        UnsupportedError: what first consumes the input is nothing this can fold into.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    consumers = [node for node in folded.graph.node if input_name in node.input]
    kinds = [node.op_type for node in consumers]
    if len(consumers) != 1 or kinds[0] not in _FOLDERS:
        raise UnsupportedError(f"normalisation cannot be folded into {', '.join(kinds) or 'nothing'}")
    _FOLDERS[kinds[0]](folded.graph, consumers[0], preprocessing)
    _replace_input(folded.graph, input_name, preprocessing)
    _drop_unused(folded.graph)
    return folded


def _fold_conv(graph: onnx.GraphProto, node: onnx.NodeProto, preprocessing: pb.Preprocessing) -> None:
    for attribute in node.attribute:
        if attribute.name == "pads" and any(attribute.ints):
            # A padded zero is 0 after normalisation, but 128 levels off before it.
            raise UnsupportedError("normalisation cannot be folded into a padded convolution")
    held = {item.name: item for item in graph.initializer}
    weight_name = node.input[1]
    bias_name = node.input[2] if len(node.input) > 2 else ""
    bias = numpy_helper.to_array(held[bias_name]) if bias_name else None
    weight, shift = folded_conv(numpy_helper.to_array(held[weight_name]), bias, preprocessing)
    names = [weight_name + SUFFIX, (bias_name or bias_beside(weight_name)) + SUFFIX]
    for name, array in zip(names, (weight, shift), strict=True):
        graph.initializer.append(numpy_helper.from_array(array, name))
    node.input[1:] = names


_FOLDERS: Mapping[str, Callable[[onnx.GraphProto, onnx.NodeProto, pb.Preprocessing], None]] = (
    MappingProxyType({"Conv": _fold_conv})
)


def _replace_input(graph: onnx.GraphProto, input_name: str, preprocessing: pb.Preprocessing) -> None:
    """Puts uint8 NHWC pixels where the float32 NCHW input was."""
    steps = [
        # Transposed while a value is one byte: four times less to move.
        helper.make_node("Transpose", [_PIXELS], ["pixels_nchw"], "pixels/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["pixels_nchw"], ["pixels_float"], "pixels/Cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels_float", "pixels_centre"], [input_name], "pixels/Sub"),
    ]
    nodes: list[Any] = [*steps, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.array(CENTRE, np.float32), "pixels_centre"))
    size = specs.input_size(preprocessing)
    shape: list[str | int | None] = ["batch", size.height, size.width, 3]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(_PIXELS, onnx.TensorProto.UINT8, shape))


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
