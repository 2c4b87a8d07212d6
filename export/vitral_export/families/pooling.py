"""The poolers of transformers' Vision Transformers: what `pooler_output` of a model is."""

from __future__ import annotations

from typing import Any

from vitral_export.families.family import Pooled

_CLS = "the CLS token of last_hidden_state"


def none(_: Any) -> Pooled | None:
    """The models have no pooler."""
    return None


def dense(model: Any) -> Pooled | None:
    """ViT's and DeiT's, which may be left out: a dense layer and its activation on the CLS token."""
    if model.pooler is None:
        return None
    meaning = f"{_CLS} through the pooler's dense layer and activation"
    return Pooled(meaning, model.pooler.dense.out_features)


def cls(model: Any) -> Pooled | None:
    """DINOv2's and DINOv3's: nothing but the CLS token, after the last LayerNorm."""
    return Pooled(_CLS, model.config.hidden_size)


def cls_normed(model: Any) -> Pooled | None:
    """CLIP's: the CLS token, which alone goes through the last LayerNorm."""
    return Pooled(f"{_CLS} through the model's last LayerNorm", model.config.hidden_size)


def attention(model: Any) -> Pooled | None:
    """SigLIP's, which may be left out: a learnt query attends to all tokens, and an MLP follows."""
    if not model.use_head:
        return None
    meaning = "what a learnt query takes from last_hidden_state by attention, through an MLP"
    return Pooled(meaning, model.config.hidden_size)


def mean(model: Any) -> Pooled | None:
    """BEiT's, which may be left out: the mean of the patches through a LayerNorm, or the CLS token."""
    if model.pooler is None:
        return None
    over = "the mean of the patch tokens of last_hidden_state through the pooler's LayerNorm"
    return Pooled(_CLS if model.pooler.layernorm is None else over, model.config.hidden_size)
