"""Positions that follow the size of the image where a family's own code fixes them while torch traces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Interpolate = Callable[[Tensor, Any, Any], Tensor]
"""From patch tokens (B, N, D), height and width of the image to positions (1, prefix + N, D)."""


@contextmanager
def unfrozen(model: Any, *, frozen: bool) -> Iterator[None]:
    """While torch traces for any size, positions of a model that would be frozen to the traced one are not.

    Its own code makes whole numbers of the sizes, by which torch takes them for constants. It stays as it is
    for every single size: truth, and the steps that a graph is held against, are the library's.
    """
    if not frozen or not torch.compiler.is_exporting():
        yield
        return
    inner = model.embeddings
    inner.interpolate_pos_encoding = partial(_followed, inner, inner.interpolate_pos_encoding)
    try:
        yield
    finally:
        del inner.interpolate_pos_encoding


def _followed(inner: Any, own: Interpolate, tokens: Tensor, height: Any, width: Any) -> Tensor:
    """Positions averaged where there are fewer patches, by a cubic where there are more."""
    if not isinstance(height, torch.SymInt):
        return own(tokens, height, width)
    table, patch = inner.position_embeddings, inner.patch_embeddings.patch_size
    side = math.isqrt(table.shape[1] - 1)
    native = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # 1 N D -> 1 D H/P W/P
    size = (height // patch[0], width // patch[1])
    grid = functional.interpolate(native, size, mode="bicubic", align_corners=False, antialias=True)
    patches = grid.permute(0, 2, 3, 1).reshape(1, -1, table.shape[2])  # 1 D H/P W/P -> 1 N D
    return torch.cat([table[:, :1], patches], dim=1)
