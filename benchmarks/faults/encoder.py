"""Faults of an encoder: a Hugging Face ViT of two layers."""

from __future__ import annotations

import numpy as np

from benchmarks.faults.planting import BOTH, UINT8, Fault, Written, last_bit, nan, scalar_scaled, scaled

_VIT = "hf-vit"
_QUERY, _KEY = ("layers/0/attention/" + name for name in ("q_proj", "k_proj"))
_WEIGHT = "layers.1.mlp.fc1.weight.transposed"


def _query_and_key_swapped(written: Written) -> None:
    for kind in ("MatMul", "Add"):
        query, key = (written.node(f"{place}/{kind}") for place in (_QUERY, _KEY))
        query.input[1], key.input[1] = key.input[1], query.input[1]


def _epsilon(written: Written) -> None:
    written.change_attribute("layers/0/layernorm_after/LayerNormalization", "epsilon", 1e-6)


def _scale(written: Written) -> None:
    name = written.node("layers/0/attention/Mul").input[1]
    written.set_constant("other_scale", written.constant(name) * np.float32(1.001))
    written.node("layers/0/attention/Mul").input[1] = "other_scale"


def _gelu(written: Written) -> None:
    written.change_attribute("layers/1/mlp/activation_fn/Gelu", "approximate", "tanh")


def _residual(written: Written) -> None:
    written.leave_out("layers/0/Add_2")


def _pooler(written: Written) -> None:
    written.set_constant("second", np.array(1, np.int64))
    written.node("pooler/Gather").input[1] = "second"


def _heads(written: Written) -> None:
    """B N (D/H H) for B N (H D/H), from the projections to the sum over the values."""
    for name, order in (("Reshape", (0, 1, 3, 2)), ("Reshape_4", (0, 3, 2, 1))):
        shape = written.constant(written.node(f"layers/0/attention/{name}").input[1])
        written.set_constant(f"other_{name}", shape[list(order)])
    for name in ("Reshape", "Reshape_2", "Reshape_3"):
        written.node(f"layers/0/attention/{name}").input[1] = "other_Reshape"
    written.node("layers/0/attention/Reshape_4").input[1] = "other_Reshape_4"


def _softmax(written: Written) -> None:
    written.change_attribute("layers/0/attention/Softmax", "axis", -2)


def _norms(written: Written) -> None:
    node = written.node("layers/1/layernorm_after/LayerNormalization")
    node.input[1:] = ["layers.1.layernorm_before.weight", "layers.1.layernorm_before.bias"]


FAULTS = (
    Fault("query_and_key", _VIT, "query and key of one layer swapped", BOTH, _query_and_key_swapped),
    Fault("query_and_key_uint8", _VIT, "the same in the uint8 graph only", (UINT8,), _query_and_key_swapped),
    Fault("scale", _VIT, "attention scale x 1.001 in one layer", BOTH, _scale),
    Fault("softmax", _VIT, "softmax over the queries", BOTH, _softmax),
    Fault("heads", _VIT, "heads split in the wrong order", BOTH, _heads),
    Fault("epsilon", _VIT, "LayerNorm eps 1e-6 for 1e-12", BOTH, _epsilon),
    Fault("norms", _VIT, "one LayerNorm's weights taken for another's", BOTH, _norms),
    Fault("gelu", _VIT, "GELU by tanh for erf", BOTH, _gelu),
    Fault("residual", _VIT, "a residual connection left out", BOTH, _residual),
    Fault("pooler", _VIT, "pooler takes token 1 for 0", BOTH, _pooler),
    Fault(
        "nan_in_the_pooler",
        _VIT,
        "NaN in the pooler's bias",
        BOTH,
        lambda it: it.change_weight("pooler.dense.bias", nan),
        shared=True,
    ),
    Fault(
        "encoder_tensor",
        _VIT,
        "one tensor x 1.001",
        BOTH,
        lambda it: it.change_weight(_WEIGHT, scaled),
        shared=True,
    ),
    Fault(
        "encoder_scalar",
        _VIT,
        "one scalar x 1.001",
        BOTH,
        lambda it: it.change_weight(_WEIGHT, scalar_scaled),
        shared=True,
    ),
    Fault(
        "encoder_last_bit",
        _VIT,
        "last bit of one scalar",
        BOTH,
        lambda it: it.change_weight(_WEIGHT, last_bit),
        shared=True,
    ),
)
"""Those of attention, of normalisation and activation, of the wiring, and of single weights."""
