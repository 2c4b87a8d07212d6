"""The families of Vision Transformers in transformers that are known: one entry each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from vitral.errors import UnsupportedError
from vitral_export.families import pooling
from vitral_export.families.family import Family, Positions

VIT = Family(
    model_type="vit",  # DINO's too
    cls="ViTModel",
    block="ViTLayer",
    pooler=pooling.dense,
    processors=("ViTImageProcessor",),
    positions=Positions.ON_REQUEST,
    pooler_keys=("pooler.",),
)
DEIT = Family(
    model_type="deit",
    cls="DeiTModel",
    block="DeiTLayer",
    pooler=pooling.dense,
    processors=("DeiTImageProcessor",),
    positions=Positions.ON_REQUEST,
    prefix=("cls", "distillation"),
    pooler_keys=("pooler.",),
    unused_keys=("classifier.", "cls_classifier.", "distillation_classifier.", "decoder."),
)
BEIT = Family(
    model_type="beit",
    cls="BeitModel",
    block="BeitLayer",
    pooler=pooling.mean,
    processors=("BeitImageProcessor",),
    positions=Positions.FIXED,  # its relative positions are off by 1e-4 at the transposed size
    pooler_keys=("pooler.",),
    # A model for masked images has its last LayerNorm in its head, where a mean is pooled.
    unused_keys=("classifier.", "lm_head.", "layernorm.", "decode_head.", "auxiliary_head.", "fpn"),
)
DINOV2 = Family(
    model_type="dinov2",
    cls="Dinov2Model",
    block="Dinov2Layer",
    pooler=pooling.cls,
    processors=("BitImageProcessor",),
    positions=Positions.BY_ITSELF,
    unused_keys=("classifier.",),
)
DINOV2_WITH_REGISTERS = Family(
    model_type="dinov2_with_registers",
    cls="Dinov2WithRegistersModel",
    block="Dinov2WithRegistersLayer",
    pooler=pooling.cls,
    processors=("BitImageProcessor",),
    positions=Positions.BY_ITSELF,
    prefix=("cls", "register"),
    unused_keys=("classifier.",),
)
DINOV3 = Family(
    model_type="dinov3_vit",
    cls="DINOv3ViTModel",
    block="DINOv3ViTLayer",
    pooler=pooling.cls,
    processors=("DINOv3ViTImageProcessor",),
    positions=Positions.BY_ITSELF,  # rotary: computed from the size
    prefix=("cls", "register"),
    norm="norm",
    position_table="",
    unused_keys=("classifier.",),
)
CLIP = Family(
    model_type="clip_vision_model",
    cls="CLIPVisionModel",
    block="CLIPEncoderLayer",
    pooler=pooling.cls_normed,
    processors=("CLIPImageProcessor",),
    positions=Positions.ON_REQUEST,
    two_towers="clip",
    patches="embeddings.patch_embedding",
    embeddings="pre_layrnorm",
    norm="post_layernorm",
    norm_is_last=False,
    cls_token="embeddings.class_embedding",  # noqa: S106 - a token of an image
    position_table="embeddings.position_embedding.weight",
    unused_keys=("text_model.", "text_projection.", "visual_projection.", "logit_scale", "classifier."),
)
SIGLIP = Family(
    model_type="siglip_vision_model",  # SigLIP 2's of fixed resolution too
    cls="SiglipVisionModel",
    block="SiglipEncoderLayer",
    pooler=pooling.attention,
    processors=("SiglipImageProcessor",),
    positions=Positions.ON_REQUEST,
    two_towers="siglip",
    prefix=(),
    patches="embeddings.patch_embedding",
    norm="post_layernorm",
    position_table="embeddings.position_embedding.weight",
    pooler_keys=("head.",),
    unused_keys=("text_model.", "logit_scale", "logit_bias", "classifier."),
)
VIT_MAE = Family(
    model_type="vit_mae",
    cls="ViTMAEModel",
    block="ViTMAELayer",
    pooler=pooling.none,
    processors=("ViTImageProcessor",),
    positions=Positions.ON_REQUEST,
    unused_keys=("decoder.",),
    shuffles=True,
)
VIT_MSN = Family(
    model_type="vit_msn",
    cls="ViTMSNModel",
    block="ViTMSNLayer",
    pooler=pooling.none,
    processors=("ViTImageProcessor",),
    positions=Positions.ON_REQUEST,
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.model_type: family
        for family in (
            VIT,
            DEIT,
            BEIT,
            DINOV2,
            DINOV2_WITH_REGISTERS,
            DINOV3,
            CLIP,
            SIGLIP,
            VIT_MAE,
            VIT_MSN,
        )
    }
)
"""Every family that is known, by its model_type."""

_NAFLEX = "its patches come in as rows with a mask, of a number that is the caller's choice, not as an image"
REFUSED: Mapping[str, str] = MappingProxyType({"siglip2": _NAFLEX, "siglip2_vision_model": _NAFLEX})
"""Families that cannot be exported, by model_type, and why."""


def of_type(model_type: str) -> Family | None:
    """The family of checkpoints of this model_type; None where none is known.

    Raises:
        UnsupportedError: the family is known, and that it cannot be exported.
    """
    if model_type in REFUSED:
        raise UnsupportedError(f"a {model_type} model cannot be exported: {REFUSED[model_type]}")
    towers = (family for family in FAMILIES.values() if family.two_towers == model_type)
    return FAMILIES.get(model_type) or next(towers, None)


def of_module(module: nn.Module) -> Family | None:
    """The family whose class of transformers a module is an instance of; None where there is none."""
    if not type(module).__module__.startswith("transformers."):
        return None
    name = type(module).__name__
    return next((family for family in FAMILIES.values() if family.cls == name), None)
