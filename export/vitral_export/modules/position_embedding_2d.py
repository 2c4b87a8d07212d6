"""Positions as a row half and a column half, alone and behind a patch embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError
from vitral_export.modules.patch_embedding import PatchEmbedding
from vitral_export.modules.sizes import check_sizes, check_tokens


class ViT2DPositionEmbedding(nn.Module):
    """Adds to each patch token the embedding of its row and, behind it, that of its column.

    (B, N, D) -> (B, N, D). The first half of the features are the row's, the second the column's.

    Attributes:
        row_embed: Embedding (H/P, D/2).
        col_embed: Embedding (W/P, D/2).
        row_indices: (N,), the row of each patch.
        col_indices: (N,), its column.
    """

    row_indices: Tensor
    col_indices: Tensor

    def __init__(self, img_size: int = 224, patch_size: int = 16, embed_dim: int = 768) -> None:
        super().__init__()
        check_sizes({"img_size": img_size, "patch_size": patch_size, "embed_dim": embed_dim})
        if embed_dim % 2:
            raise InvalidArgumentError(
                f"embed_dim {embed_dim} is odd: rows and columns take one half each, so it must be even"
            )
        self.img_size = img_size
        self.patch_size = patch_size
        self.embed_dim = embed_dim
        side = img_size // patch_size
        self.num_patches = side**2
        self.row_embed = nn.Embedding(side, embed_dim // 2)
        self.col_embed = nn.Embedding(side, embed_dim // 2)
        patches = torch.arange(self.num_patches)
        self.register_buffer("row_indices", patches // side)
        self.register_buffer("col_indices", patches % side)

    def table(self) -> Tensor:
        """The position embedding of every patch, (N, D)."""
        return torch.cat([self.row_embed(self.row_indices), self.col_embed(self.col_indices)], dim=-1)

    def forward(self, patch_embeddings: Tensor) -> Tensor:
        """Tokens (B, N, D) with their positions added.

        Raises:
            InvalidArgumentError: the rank, the number of tokens or their width is not the module's.
        """
        check_tokens(patch_embeddings, count=self.num_patches, width=self.embed_dim)
        return patch_embeddings + self.table()  # B N D + N D -> B N D

    def named_outputs(self, patch_embeddings: Tensor) -> dict[str, Tensor]:
        """The tokens with positions as `embeddings`."""
        return {"embeddings": self(patch_embeddings)}

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        """Takes states without indices, and refuses those whose indices are of another grid."""
        held = dict(state_dict)
        for name in ("row_indices", "col_indices"):
            mine: Tensor = getattr(self, name)
            theirs = held.setdefault(prefix + name, mine)
            if not torch.equal(torch.as_tensor(theirs).flatten().cpu(), mine.cpu()):
                raise InvalidArgumentError(
                    f"{prefix}{name} is not that of a grid of {self.num_patches} patches"
                )
            held[prefix + name] = mine
        super()._load_from_state_dict(held, prefix, *arguments)


class PatchEmbedding2DPosition(nn.Module):
    """A patch embedding with row and column positions: (B, C, H, W) -> (B, N, D).

    Attributes:
        patch_embedding: `PatchEmbedding`.
        position_embedding: `ViT2DPositionEmbedding`.
    """

    def __init__(
        self, img_size: int = 224, patch_size: int = 16, in_channels: int = 3, embed_dim: int = 768
    ) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(img_size, patch_size, in_channels, embed_dim)
        self.position_embedding = ViT2DPositionEmbedding(img_size, patch_size, embed_dim)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Tokens (B, N, D) of images (B, C, H, W).

        Raises:
            InvalidArgumentError: the rank, the channels, the height or the width is not the module's.
        """
        return self.named_outputs(pixel_values)["embeddings"]

    def named_outputs(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """`embeddings` and `patch_embeddings`, which go into them, both (B, N, D)."""
        patches = self.patch_embedding(pixel_values)  # B C H W -> B N D
        return {"embeddings": self.position_embedding(patches), "patch_embeddings": patches}
