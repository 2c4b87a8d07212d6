"""Small models of timm's own architectures, saved by timm as people save theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from vitral.v1 import model_pb2 as pb

CLS, DISTILLATION, REGISTER = (
    pb.PREFIX_TOKEN_CLS,
    pb.PREFIX_TOKEN_DISTILLATION,
    pb.PREFIX_TOKEN_REGISTER,
)


@dataclass(frozen=True)
class Architecture:
    """One of timm's architectures, made small.

    Attributes:
        prefix: tokens in front of its patches.
        pooled: whether its pooling has weights.
        patch: side of a patch.
        arguments: what makes it small.
    """

    prefix: tuple[int, ...]
    pooled: bool
    patch: int
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, Any]:
        """Every argument of the small model: two blocks of width 32, two patches by two."""
        small = {"img_size": 2 * self.patch, "embed_dim": 32, "depth": 2, "num_heads": 2}
        return small | dict(self.arguments)


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "vit_tiny_patch16_224": Architecture((CLS,), False, 16),
        "vit_base_patch32_224": Architecture((CLS,), False, 32),
        "deit_tiny_distilled_patch16_224": Architecture((CLS, DISTILLATION), False, 16),
        "deit3_small_patch16_224": Architecture((CLS,), False, 16),
        "vit_small_patch14_dinov2": Architecture((CLS,), False, 14),
        "vit_small_patch14_reg4_dinov2": Architecture((CLS, *[REGISTER] * 4), False, 14),
        "vit_giant_patch14_dinov2": Architecture((CLS,), False, 14, {"mlp_ratio": 2.0}),
        "vit_base_patch16_clip_224": Architecture((CLS,), False, 16),
        "vit_base_patch16_siglip_224": Architecture((), True, 16),
        "vit_base_patch16_siglip_gap_224": Architecture((), False, 16),
        "test_vit2": Architecture((REGISTER,), True, 16),
        "vit_dlittle_patch16_reg1_gap_256": Architecture((REGISTER,), True, 16),
        "aimv2_large_patch14_224": Architecture((), False, 14),
        "test_vit4": Architecture((REGISTER,), True, 16),
        "test_vit3": Architecture((REGISTER,), True, 16, {"num_heads": 4}),
    }
)
"""Of every form there is: CLS, distillation and register tokens, LayerScale, gated MLPs, norms before and
behind the encoder, root mean squares, differential attention, pooling by a mean and by attention, positions
for all tokens or for patches only."""


def made(name: str, *, classes: int = 3) -> Any:
    """A model whose biases and scales are not zeros and ones either, as if it had been trained."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes, **ARCHITECTURES[name].sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def save(folder: Path, name: str) -> tuple[Any, Path]:
    """A model and the folder it is saved to: config.json and model.safetensors."""
    from timm.models import save_for_hf

    model = made(name)
    save_for_hf(model, folder, model_args=ARCHITECTURES[name].sizes, safe_serialization=True)
    return model, folder
