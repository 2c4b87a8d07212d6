"""Small Vision Transformers, saved by transformers as people save theirs, in shapes that nobody guesses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, ViTConfig, ViTImageProcessorPil, ViTModel
from transformers.utils import logging

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
"""Of the processors that are saved here."""

ODD: Mapping[str, Any] = {
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 96,
    "image_size": 112,
    "patch_size": 14,
}
"""Nothing a power of two."""

OTHER_SIZES: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
}
"""Those of `OTHER`, which every family has."""

OTHER: Mapping[str, Any] = {
    **OTHER_SIZES,
    "qkv_bias": False,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-6,
}
"""The smallest that has everything, and the quickest to export."""


def model(config: Mapping[str, Any], cls: type[PreTrainedModel] = ViTModel, **options: Any) -> Any:
    """A ViT whose biases and scales are not zeros and ones either, as if it had been trained."""
    return trained(cls, ViTConfig(**config), **options)


def trained(cls: type[PreTrainedModel], config: Any, **options: Any) -> Any:
    """A model of any class whose biases and scales are not zeros and ones either."""
    torch.manual_seed(0)
    made = cls(config, **options).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return made


def save(folder: Path, made: Any, *, processor: bool = True, **options: Any) -> Path:
    """Saves a model, and a processor of its image size beside it."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    made.save_pretrained(folder, **options)
    if bars:
        logging.enable_progress_bar()
    if processor:
        side = made.config.image_size
        size = {"height": side, "width": side}
        ViTImageProcessorPil(size=size, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


def copy(source: Path, target: Path, **config: Any) -> Path:
    """A checkpoint with other entries in its config.json."""
    shutil.copytree(source, target)
    file = target / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return target


def change(folder: Path, how: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Rewrites the tensors of a checkpoint."""
    file = folder / "model.safetensors"
    state = {name: tensor.clone().contiguous() for name, tensor in how(load_file(file)).items()}
    save_file(state, file, metadata={"format": "pt"})
    return folder
