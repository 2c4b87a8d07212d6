"""Small checkpoints of transformers' models that faults are planted into, as transformers saves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

SIDE = 112
"""Height and width of the images of `vit`."""

_SMALL: Mapping[str, Any] = MappingProxyType(
    {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
)


def vit(folder: Path) -> Path:
    """A ViT of unusual sizes, with a processor."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=60,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=120,
        image_size=SIDE,
        patch_size=14,
    )
    _save(transformers.ViTModel, config, folder, scale=0.15)
    return _with_processor(folder, SIDE)


def small_vit(folder: Path) -> Path:
    """The smallest ViT, with a processor."""
    import transformers

    _save(transformers.ViTModel, transformers.ViTConfig(**_SMALL, intermediate_size=40), folder)
    return _with_processor(folder, _SMALL["image_size"])


def _with_processor(folder: Path, side: int) -> Path:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    size = {"height": side, "width": side}
    mean, std = [0.48, 0.45, 0.41], [0.26, 0.25, 0.27]
    ViTImageProcessorPil(size=size, image_mean=mean, image_std=std).save_pretrained(folder)
    return folder


def deit(folder: Path) -> Path:
    """A DeiT, with a distillation token."""
    import transformers

    return _save(transformers.DeiTModel, transformers.DeiTConfig(**_SMALL, intermediate_size=40), folder)


def beit(folder: Path) -> Path:
    """A BEiT with relative positions of its own in each block."""
    import transformers

    config = transformers.BeitConfig(**_SMALL, intermediate_size=40, use_relative_position_bias=True)
    return _save(transformers.BeitModel, config, folder)


def dinov3(folder: Path) -> Path:
    """A DINOv3 ViT, with registers, rotary positions, and gates in its MLPs."""
    import transformers

    sizes = {**_SMALL, "num_hidden_layers": 2, "intermediate_size": 40}
    config = transformers.DINOv3ViTConfig(**sizes, num_register_tokens=2, use_gated_mlp=True)
    return _save(transformers.DINOv3ViTModel, config, folder)


def _save(cls: Callable[[Any], Any], config: Any, folder: Path, *, scale: float = 0.2) -> Path:
    """Saves a model whose weights hide no fault.

    Fresh ones would: biases are zero, norms one, and attention looks everywhere alike.
    """
    from transformers.utils import logging

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = cls(config)
        for name, tensor in model.named_parameters():
            norm = name.endswith("weight") and "norm" in name
            tensor.copy_(torch.randn_like(tensor) * scale + float(norm))
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    return folder
