"""The small models that faults are planted into, and their sound exports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from benchmarks.faults import sizes
from vitral.v1 import model_pb2 as pb
from vitral_export import artifact
from vitral_export.dynamic_size import widened
from vitral_export.loaded import Loaded, Options
from vitral_export.onnx_graph import DEFAULT_OPSET
from vitral_export.sources import load
from vitral_export.wrap import Inference

_SMALL = Options(img_size=32, patch_size=8, embed_dim=16)
_SIZE = 112


@dataclass(frozen=True)
class Sound:
    """The written graphs of a model, not yet verified.

    Attributes:
        folder: where they are.
        spec: what they say they are.
        wrapped: the module they were made of.
    """

    folder: Path
    spec: pb.ModelSpec
    wrapped: Inference


def export(model: str, folder: Path) -> Sound:
    """Writes the graphs of one of `MODELS` or of `SIZED` into a new folder."""
    folder.mkdir(parents=True)
    loaded = {**MODELS, **SIZED}[model](folder.with_name(f"{folder.name}-checkpoint"))
    wrapped = Inference(loaded)
    spec = artifact.write_graphs(folder, wrapped, loaded, name=model, opset=DEFAULT_OPSET)
    return Sound(folder, spec, wrapped)


def checkpoint(folder: Path) -> Path:
    """A Hugging Face ViT of unusual sizes, as transformers saves it.

    Fresh weights would hide faults: biases are zero, norms one, and attention looks everywhere alike.
    """
    import transformers
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
    from transformers.utils import logging

    config = transformers.ViTConfig(
        hidden_size=60,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=120,
        image_size=_SIZE,
        patch_size=14,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.ViTModel(config)
        for name, tensor in model.named_parameters():
            norm = name.endswith("weight") and "norm" in name
            tensor.copy_(torch.randn_like(tensor) * 0.15 + float(norm))
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    size = {"height": _SIZE, "width": _SIZE}
    mean, std = [0.48, 0.45, 0.41], [0.26, 0.25, 0.27]
    ViTImageProcessorPil(size=size, image_mean=mean, image_std=std).save_pretrained(folder)
    return folder


def _preset(name: str) -> Callable[[Path], Loaded]:
    return lambda _: load(name, _SMALL)


MODELS: Mapping[str, Callable[[Path], Loaded]] = MappingProxyType(
    {
        "patch-embedding": _preset("patch-embedding"),
        "manual-patch-embedding": _preset("manual-patch-embedding"),
        "vit-embedding": _preset("vit-embedding"),
        "patch-embedding-2d-position": _preset("patch-embedding-2d-position"),
        "hf-vit": lambda folder: load(f"hf:{checkpoint(folder)}", Options()),
    }
)
"""Each by its name, from a folder where it may leave a checkpoint."""

SIZED: Mapping[str, Callable[[Path], Loaded]] = MappingProxyType(
    {sizes.MODEL: lambda folder: widened(load(f"hf:{checkpoint(folder)}", Options()))}
)
"""Those of dynamic height and width, likewise."""
