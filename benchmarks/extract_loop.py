"""The same data set by a plain loop over transformers and PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import ViTImageProcessorPil

from benchmarks.base_model import SEED
from vitral.tensors import Array
from vitral_export.modules import PatchEmbedding

_BATCH = 8


class Loop:
    """ViTImageProcessorPil and a torch module, float16 rows gathered and saved as one file."""

    def __init__(self, pictures: Sequence[Path], made: Path) -> None:
        self._pictures = pictures
        self._file = made / "loop.safetensors"
        self._processor: Any = ViTImageProcessorPil()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self._net = PatchEmbedding(img_size=224, patch_size=16, in_channels=3, embed_dim=768).eval()
        self.row: Array = np.empty(0)

    def one(self) -> dict[str, float]:
        """A picture at a time."""
        return self._run(1)

    def batches(self) -> dict[str, float]:
        """A batch at a time."""
        return self._run(_BATCH)

    def _run(self, size: int) -> dict[str, float]:
        rows = []
        with torch.inference_mode():
            for start in range(0, len(self._pictures), size):
                images = [Image.open(path).convert("RGB") for path in self._pictures[start : start + size]]
                inputs = self._processor(images=images, return_tensors="pt")
                rows.append(self._net(inputs["pixel_values"]).half().numpy())
        array = np.concatenate(rows)
        save_file({"patch_embeddings": array}, self._file)
        self.row = np.asarray(array[0], np.float32)
        return {}
