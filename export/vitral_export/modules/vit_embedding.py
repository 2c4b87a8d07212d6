"""The input of a Vision Transformer's encoder: patch tokens, CLS token in front, positions added."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError
from vitral_export.modules.patch_embedding import PatchEmbedding

STD = 0.02
"""Standard deviation of fresh CLS tokens and positions: a normal distribution cut off at -2 and 2."""


class ViTEmbedding(nn.Module):
    """Patch tokens with a CLS token in front and learnable positions over all N + 1, then dropout.

    (B, C, H, W) -> (B, N + 1, D).

    Attributes:
        patch_embedding: `PatchEmbedding`.
        cls_token: (1, 1, D).
        position_embedding: (1, N + 1, D), the first row the CLS token's.
        dropout: Dropout; nothing in eval mode.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise InvalidArgumentError(f"dropout must be from 0 to 1, not {dropout!r}")
        self.patch_embedding = PatchEmbedding(img_size, patch_size, in_channels, embed_dim)
        count = self.patch_embedding.num_patches + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.position_embedding = nn.Parameter(torch.zeros(1, count, embed_dim))
        self.dropout = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.cls_token, std=STD)
        nn.init.trunc_normal_(self.position_embedding, std=STD)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Tokens (B, N + 1, D) of images (B, C, H, W), the CLS token first.

        Raises:
            InvalidArgumentError: the rank, the channels, the height or the width is not the module's.
        """
        return self.named_outputs(pixel_values)["embeddings"]

    def named_outputs(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """`embeddings` (B, N + 1, D) and `patch_embeddings` (B, N, D), which go into them."""
        patches = self.patch_embedding(pixel_values)  # B C H W -> B N D
        cls = self.cls_token.expand(pixel_values.shape[0], -1, -1)  # 1 1 D -> B 1 D
        x = torch.cat([cls, patches], dim=1) + self.position_embedding  # -> B N+1 D
        return {"embeddings": self.dropout(x), "patch_embeddings": patches}
