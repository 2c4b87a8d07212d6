"""The repository that the workloads ask for, exported once and kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.base_model import SEED, export
from benchmarks.serving.workload import Workload

DEFAULT_REPO = Path("models-bench")


@dataclass(frozen=True)
class Encoder:
    """Sizes of a ViT of 12 layers; those of a ViT-S where nothing else is said."""

    image: int
    patch: int
    width: int = 384
    heads: int = 6


_ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {"vit-s16": Encoder(224, 16), "vit-s14-518": Encoder(518, 14)}
)


def make(repo: Path, workloads: Iterable[Workload]) -> None:
    """Exports the models of these workloads that are not there yet; an encoder takes a minute or more."""
    for name in dict.fromkeys(workload.model for workload in workloads):
        if (repo / name).is_dir():
            continue
        print(f"exporting {name} into {repo}", flush=True)
        if name in _ENCODERS:
            export_encoder(repo, name, _ENCODERS[name])
        else:
            export(repo, name, name=name)


def export_encoder(repo: Path, name: str, sizes: Encoder, *, outputs: str = "last_hidden_state") -> None:
    """Exports an encoder of random weights; without outputs named, every output."""
    import torch
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
    from transformers.utils import logging

    config = ViTConfig(
        hidden_size=sizes.width,
        num_hidden_layers=12,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
        image_size=sizes.image,
        patch_size=sizes.patch,
    )
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
        size = {"height": sizes.image, "width": sizes.image}
        ViTImageProcessorPil(size=size).save_pretrained(folder)
        export(repo, f"hf:{folder}", name=name, outputs=outputs)
