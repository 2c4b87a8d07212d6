"""Faults of what other families than ViT bring: tokens in front, gates, rotary and relative positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.planting import FLOAT, Fault, Written

_DEIT, _BEIT, _DINOV3 = "hf-deit", "hf-beit", "hf-dinov3"
_ATTENTION = "model/layer/0/attention"
_BIAS = "layers.0.relative_position_bias.unsqueeze_4_constant"


def _distillation(written: Written) -> None:
    written.node("embeddings/Expand_2").input[0] = "embeddings.cls_token"


def _no_bias(written: Written) -> None:
    written.leave_out("layers/0/attention/Add")


def _turned(bias: NDArray[np.float32]) -> None:
    """Q x K for K x Q."""
    bias[:] = bias.swapaxes(-1, -2).copy()


def _registers(written: Written) -> None:
    cls, register, patches = written.node("embeddings/Concat_2").input
    assert register != cls
    written.node("embeddings/Concat_2").input[:] = [cls, cls, cls, patches]


def _register_first(written: Written) -> None:
    cls, register, patches = written.node("embeddings/Concat_2").input
    written.node("embeddings/Concat_2").input[:] = [register, cls, patches]


def _gates(written: Written) -> None:
    for kind in ("MatMul", "Add"):
        gate, value = (written.node(f"model/layer/1/mlp/{name}/{kind}") for name in ("gate_proj", "up_proj"))
        gate.input[1], value.input[1] = value.input[1], gate.input[1]


def _sine_and_cosine(written: Written) -> None:
    cosine, sine = (written.node(f"{_ATTENTION}/{name}") for name in ("Mul", "Mul_2"))
    cosine.input[1], sine.input[1] = sine.input[1], cosine.input[1]


def _rotation(written: Written) -> None:
    written.node(f"{_ATTENTION}/Add").op_type = "Sub"


def _columns_for_rows(written: Written) -> None:
    for name in ("cos", "sin"):
        written.change_weight(f"rope_embeddings.{name}_constant", _grid_turned)


def _grid_turned(table: NDArray[np.float32]) -> None:
    """(W H) D for (H W) D, of 4 x 4 patches."""
    table[:] = table.reshape(4, 4, -1).swapaxes(0, 1).reshape(table.shape).copy()


def _before_the_mlp(written: Written) -> None:
    """The sum behind attention for the one behind the MLP; the encoder goes on as it was."""
    early, late = (written.node(f"model/layer/0/{name}") for name in ("Add", "Add_2"))
    new = {early.output[0]: late.output[0], late.output[0]: early.output[0]}
    for node in written.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]


_ONE = (FLOAT,)
_BOTH = (FLOAT, "model_hidden_states.1.onnx")  # a weight of both
FAULTS = (
    Fault("distillation", _DEIT, "the CLS token for the distillation token", _ONE, _distillation),
    Fault("no_bias", _BEIT, "relative positions left out", _ONE, _no_bias),
    Fault(
        "bias_turned",
        _BEIT,
        "relative positions from key to query",
        _ONE,
        lambda it: it.change_weight(_BIAS, _turned),
    ),
    Fault("registers", _DINOV3, "the CLS token for the register tokens", _ONE, _registers),
    Fault("register_first", _DINOV3, "register tokens in front of the CLS token", _ONE, _register_first),
    Fault("gates", _DINOV3, "gate and value of one MLP swapped", _ONE, _gates),
    Fault("sine_and_cosine", _DINOV3, "sine and cosine of the queries swapped", _ONE, _sine_and_cosine),
    Fault("rotation", _DINOV3, "queries rotated the other way", _ONE, _rotation),
    Fault(
        "rotary_columns",
        _DINOV3,
        "rotary positions of columns for rows",
        _BOTH,
        _columns_for_rows,
        shared=True,
    ),
    Fault("before_the_mlp", _DINOV3, "a hidden state from before the MLP", _ONE, _before_the_mlp),
)
"""Those of tokens in front, of positions inside attention, of gates, and of hidden states."""
