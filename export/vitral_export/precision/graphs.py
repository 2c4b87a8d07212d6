"""A float32 graph in another precision: one model in, one model out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import onnx

from vitral.errors import UnsupportedError
from vitral_export.precision import half_graph, int8_graph, storage_graph
from vitral_export.precision.kinds import FLOAT16, FLOAT32, INT8, STORAGE


def converted(models: Mapping[str, onnx.ModelProto], precision: str) -> dict[str, onnx.ModelProto]:
    """Every graph of a version, by file name, in this precision; float32 as they are.

    Raises:
        ProofError: a weight cannot be written in it.
        UnsupportedError: it would change nothing.
    """
    if precision == FLOAT32:
        return dict(models)
    made = {file: _CONVERSIONS[precision](model) for file, model in models.items()}
    if precision == INT8 and not any(_has_int8(model) for model in made.values()):
        raise UnsupportedError(
            "there is nothing to quantise to int8: no product stands behind the patch embedding"
        )
    return made


def _has_int8(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "MatMulInteger" for node in model.graph.node)


_CONVERSIONS: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = MappingProxyType(
    {FLOAT16: half_graph.convert, STORAGE: storage_graph.convert, INT8: int8_graph.convert}
)
