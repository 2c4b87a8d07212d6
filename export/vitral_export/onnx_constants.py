"""The value of a single node whose inputs are all known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from vitral.tensors import Array


def computed(node: onnx.NodeProto, arrays: Sequence[Array]) -> Array:
    """What a node of one result makes of these, by ONNX's own reference implementation."""
    inputs = [f"i{index}" for index in range(len(arrays))]
    alone = helper.make_node(node.op_type, inputs, ["o"])
    alone.attribute.extend(node.attribute)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(inputs, arrays, strict=True)
    ]
    outputs = [helper.make_tensor_value_info("o", infos[0].type.tensor_type.elem_type, None)]
    graph = helper.make_graph([alone], "constant", infos, outputs)
    results: Any = ReferenceEvaluator(helper.make_model(graph)).run(
        None, dict(zip(inputs, arrays, strict=True))
    )
    return np.asarray(results[0])
