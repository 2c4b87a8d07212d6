"""ONNX files as others write them: by both of torch's exporters, by onnxruntime's optimiser, and by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import vit_checkpoints as vits
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from vitral_export.trace import quiet_exporter

OUTPUTS = ("last_hidden_state", "pooler_output")
SIDE, PATCH, WIDTH = 16, 8, 6
"""Of the graph that is made by hand: 4 patches."""


class _Plain(nn.Module):
    """A model of transformers with tensors in and out, as optimum wraps it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        found = self.model(pixel_values=pixel_values)
        return tuple(found[name] for name in OUTPUTS)


def checkpoint(folder: Path, config: Mapping[str, Any] = vits.OTHER) -> Path:
    """A checkpoint of transformers, with its weights."""
    return vits.save(folder, vits.model(config))


def legacy(file: Path, *, opset: int = 14) -> Path:
    """The file that torch's older exporter writes, every axis dynamic, of `vits.OTHER`."""
    axes = {"pixel_values": {0: "batch", 1: "channels", 2: "height", 3: "width"}}
    axes |= {name: {0: "batch"} for name in OUTPUTS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and traces what Python decides
        torch.onnx.export(
            _Plain(vits.model(vits.OTHER)).eval(),
            (torch.zeros(2, 3, 32, 32),),
            str(file),
            dynamo=False,
            dynamic_axes=axes,
            input_names=["pixel_values"],
            output_names=list(OUTPUTS),
            opset_version=opset,
        )
    return file


def dynamo(file: Path) -> Path:
    """The file that torch's exporter of today writes, its weights beside it."""
    with warnings.catch_warnings(), quiet_exporter():
        warnings.simplefilter("ignore")  # torch's own copies of tree specs
        torch.onnx.export(
            _Plain(vits.model(vits.OTHER)).eval(),
            (torch.zeros(2, 3, 32, 32),),
            str(file),
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            input_names=["pixel_values"],
            output_names=list(OUTPUTS),
            opset_version=18,
            verbose=False,
        )
    return file


def optimised(source: Path, file: Path, level: str = "EXTENDED") -> Path:
    """What onnxruntime makes of a file, operators of its own included."""
    settings = ort.SessionOptions()
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    settings.optimized_model_filepath = str(file)
    settings.log_severity_level = 3
    ort.InferenceSession(str(source), settings, providers=["CPUExecutionProvider"])
    return file


def by_hand(file: Path, change: Callable[[onnx.ModelProto], None] | None = None, **saving: Any) -> Path:
    """`/tokens:0` (B, 4, 6) of `input` (B, 3, 16, 16): a convolution, flattened and turned."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((WIDTH, 3, PATCH, PATCH)).astype(np.float32)
    bias = random.standard_normal(WIDTH).astype(np.float32)
    held = {"w": weight, "b": bias, "shape": np.array([0, WIDTH, -1], np.int64)}
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["c"], strides=[PATCH, PATCH]),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("Transpose", ["r"], ["/tokens:0"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("/tokens:0", TensorProto.FLOAT, ["N", 4, WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if change is not None:
        change(model)
    onnx.save_model(model, str(file), **saving)
    return file
