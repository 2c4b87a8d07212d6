"""The smallest module of dynamic size with a CLS token that depends on the image."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import vitral_export
from vitral_export.loaded import Options

NAME = "sized"
SIDE, PATCH, WIDTH = 32, 8, 16


class SizedTokens(nn.Module):
    """(B, 3, H, W) to `tokens` (B, 1 + N, 16), CLS in front, and `pooled` (B, 16)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.img_size = SIDE
        self.patch_size = PATCH
        self.projection = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        patches = self.projection(pixels).flatten(2).transpose(1, 2)  # B C H W -> B N D
        cls = self.head(patches.mean(1, keepdim=True))  # B N D -> B 1 D
        return {"tokens": torch.cat([cls, patches], 1), "pooled": cls.squeeze(1)}


def build(repo: Path) -> Path:
    """Exports it into a repository; the folder of the model."""
    options = Options(prefix_tokens=("cls",))
    vitral_export.export(SizedTokens(), name=NAME, repo=repo, dynamic_size=True, options=options)
    return repo / NAME
