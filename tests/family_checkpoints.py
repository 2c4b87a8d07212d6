"""Small models of every family of Vision Transformers that is known, as transformers makes and saves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
import vit_checkpoints as vits
from torch import Tensor

SIDE = 32
"""Height and width of the images."""

_SIZES: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 4,  # 64 positions of 32 values: more than an exporter folds away where nobody looks
}
_LAYERS: Mapping[str, Any] = {**_SIZES, "intermediate_size": 40}
_TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "max_position_embeddings": 8,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@dataclass(frozen=True)
class Saved:
    """How a checkpoint is made.

    Attributes:
        make: the model that is saved.
        prefix: tokens in front of its patches.
        cls: name of the class of the part that is exported.
        tower: that part, from the whole.
        depth: its blocks.
    """

    make: Callable[[], Any]
    prefix: int
    cls: str
    tower: Callable[[Any], Any] = lambda model: model
    depth: int = 1


def _two_towers(cls: Any, config: Any, **vision: Any) -> Callable[[], Any]:
    sides = {"text_config": dict(_TEXT), "vision_config": {**_LAYERS, **vision}}
    return lambda: vits.trained(cls, config(**sides))


def _one(cls: Any, config: Any, **more: Any) -> Callable[[], Any]:
    return lambda: vits.trained(cls, config(**more))


CHECKPOINTS: Mapping[str, Saved] = {
    "vit": Saved(
        _one(hf.ViTModel, hf.ViTConfig, **{**_LAYERS, "num_hidden_layers": 2}), 1, "ViTModel", depth=2
    ),
    "deit": Saved(_one(hf.DeiTModel, hf.DeiTConfig, **_LAYERS), 2, "DeiTModel"),
    "beit": Saved(
        _one(hf.BeitModel, hf.BeitConfig, **_LAYERS, use_relative_position_bias=True, use_mask_token=True),
        1,
        "BeitModel",
    ),
    "beit shared": Saved(
        _one(
            hf.BeitModel,
            hf.BeitConfig,
            **_LAYERS,
            use_shared_relative_position_bias=True,
            use_absolute_position_embeddings=True,
            use_mean_pooling=False,
            layer_scale_init_value=0.0,
        ),
        1,
        "BeitModel",
    ),
    "dinov2": Saved(_one(hf.Dinov2Model, hf.Dinov2Config, **_SIZES, mlp_ratio=2), 1, "Dinov2Model"),
    "dinov2 with registers": Saved(
        _one(
            hf.Dinov2WithRegistersModel,
            hf.Dinov2WithRegistersConfig,
            **_SIZES,
            mlp_ratio=2,
            use_swiglu_ffn=True,
        ),
        5,
        "Dinov2WithRegistersModel",
    ),
    "dinov3": Saved(_one(hf.DINOv3ViTModel, hf.DINOv3ViTConfig, **_LAYERS), 1, "DINOv3ViTModel"),
    "clip": Saved(
        _two_towers(hf.CLIPModel, hf.CLIPConfig), 1, "CLIPVisionModel", lambda model: model.vision_model
    ),
    "siglip": Saved(
        _two_towers(hf.SiglipModel, hf.SiglipConfig), 0, "SiglipVisionModel", lambda model: model.vision_model
    ),
    "vit mae": Saved(
        _one(
            hf.ViTMAEForPreTraining,
            hf.ViTMAEConfig,
            **_LAYERS,
            decoder_hidden_size=32,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=16,
        ),
        1,
        "ViTMAEModel",
        lambda model: model.vit,
    ),
    "vit msn": Saved(_one(hf.ViTMSNModel, hf.ViTMSNConfig, **_LAYERS), 1, "ViTMSNModel"),
}
"""One of each family by its name; BEiT's two ways of relative positions."""


def save(name: str, folder: Path) -> Path:
    """Writes the checkpoint of this name, without a processor."""
    return vits.save(folder, CHECKPOINTS[name].make(), processor=False)


def library(name: str, rows: Tensor) -> Mapping[str, Tensor]:
    """What the library's own forward gives for pixel values: tokens, pooled, every hidden state by number."""
    saved = CHECKPOINTS[name]
    tower = saved.tower(saved.make())
    more: dict[str, Any] = {}
    if saved.cls == "ViTMAEModel":
        tower.config.mask_ratio = 0.0
        count = (SIDE // tower.config.patch_size) ** 2
        more = {"noise": torch.arange(count).expand(len(rows), -1)}
    with torch.no_grad():
        found = tower(pixel_values=rows, output_hidden_states=True, return_dict=True, **more)
    given = {f"hidden_states.{index}": state for index, state in enumerate(found.hidden_states)}
    given["last_hidden_state"] = found.last_hidden_state
    if getattr(found, "pooler_output", None) is not None:
        given["pooler_output"] = found.pooler_output
    return given
