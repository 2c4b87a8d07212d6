"""The same as the convolutional patch embedding, by hand: cut, flatten, project."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError
from vitral_export.modules.patch_embedding import PatchEmbedding
from vitral_export.modules.sizes import check_images, check_sizes


class ManualPatchEmbedding(nn.Module):
    """Cuts an image into square patches, flattens each and projects it with a linear layer.

    (B, C, H, W) -> (B, N, D), patches in row-major order, the values of a patch channel by channel: the
    convolution of `PatchEmbedding`, written out.

    Attributes:
        projection: Linear, weight (D, C P P).
        num_patches: N, the number of patches of an image.
    """

    def __init__(
        self, img_size: int = 224, patch_size: int = 16, in_channels: int = 3, embed_dim: int = 768
    ) -> None:
        super().__init__()
        check_sizes(
            {
                "img_size": img_size,
                "patch_size": patch_size,
                "in_channels": in_channels,
                "embed_dim": embed_dim,
            }
        )
        self.img_size = img_size
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.embed_dim = embed_dim
        self.num_patches = (img_size // patch_size) ** 2
        self.projection = nn.Linear(in_channels * patch_size * patch_size, embed_dim)

    @classmethod
    def from_conv(cls, conv: PatchEmbedding) -> ManualPatchEmbedding:
        """The twin of a convolutional patch embedding, with its weights.

        Raises:
            InvalidArgumentError: it is no `PatchEmbedding`, or its weight is not that of its sizes.
        """
        if not isinstance(conv, PatchEmbedding):
            raise InvalidArgumentError(f"from_conv takes a PatchEmbedding, not a {type(conv).__name__}")
        twin = cls(conv.img_size, conv.patch_size, conv.in_channels, conv.embed_dim)
        theirs, mine = conv.projection.weight, twin.projection.weight
        if theirs.numel() != mine.numel() or theirs.shape[0] != mine.shape[0]:
            raise InvalidArgumentError(
                f"the convolution's weight is {tuple(theirs.shape)}, of {tuple(mine.shape)} values are needed"
            )
        twin.projection = nn.Linear(mine.shape[1], mine.shape[0], bias=conv.projection.bias is not None)
        twin.to(device=theirs.device, dtype=theirs.dtype)
        with torch.no_grad():
            twin.projection.weight.copy_(theirs.flatten(1))  # D C P P -> D (C P P)
            if conv.projection.bias is not None:
                twin.projection.bias.copy_(conv.projection.bias)
        return twin.train(conv.training)

    def patchify_steps(self, images: Tensor) -> dict[str, Tensor]:
        """Every stage from images (B, C, H, W) to tokens (B, N, D), by name and in order.

        `images`, `view` (B, C, H/P, P, W/P, P), `permute` (B, H/P, W/P, C, P, P), `reshape` (B, N, C P P) and
        `projection` (B, N, D).

        Raises:
            InvalidArgumentError: the rank, the channels, the height or the width is not the module's.
        """
        check_images(images, channels=self.in_channels, size=self.img_size)
        return self._steps(images)

    def _steps(self, images: Tensor) -> dict[str, Tensor]:
        patch = self.patch_size
        steps = {"images": images}
        rows, columns = images.shape[2] // patch, images.shape[3] // patch
        shape = (images.shape[0], self.in_channels, rows, patch, columns, patch)
        x = images.reshape(shape)  # B C H W -> B C H/P P W/P P
        steps["view"] = x
        x = x.permute(0, 2, 4, 1, 3, 5)  # B C H/P P W/P P -> B H/P W/P C P P
        steps["permute"] = x
        x = x.flatten(3).flatten(1, 2)  # B H/P W/P C P P -> B N (C P P)
        steps["reshape"] = x
        steps["projection"] = self.projection(x)  # B N (C P P) -> B N D
        return steps

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Patch tokens (B, N, D) of images (B, C, H, W); see `patchify_steps`."""
        return self.patchify_steps(pixel_values)["projection"]

    def project(self, pixel_values: Tensor) -> Tensor:
        """The same for images of any height and width that are multiples of the patch; nothing is checked."""
        return self._steps(pixel_values)["projection"]

    def named_outputs(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """The tokens as `patch_embeddings`."""
        return {"patch_embeddings": self(pixel_values)}
