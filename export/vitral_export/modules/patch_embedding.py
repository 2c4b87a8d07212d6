"""From an image to one token per patch, as one convolution."""

from __future__ import annotations

from torch import Tensor, nn

from vitral_export.modules.sizes import check_images, check_sizes


class PatchEmbedding(nn.Module):
    """Cuts an image into square patches and projects each one to a token.

    A convolution whose kernel is its stride is that and nothing else: (B, C, H, W) -> (B, N, D), patches in
    row-major order.

    Attributes:
        projection: Conv2d, weight (D, C, P, P).
        num_patches: N, the number of patches of an image.
    """

    def __init__(
        self, img_size: int = 224, patch_size: int = 16, in_channels: int = 3, embed_dim: int = 768
    ) -> None:
        super().__init__()
        sizes = {
            "img_size": img_size,
            "patch_size": patch_size,
            "in_channels": in_channels,
            "embed_dim": embed_dim,
        }
        check_sizes(sizes)
        self.img_size = img_size
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.embed_dim = embed_dim
        self.num_patches = (img_size // patch_size) ** 2
        self.projection = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Patch tokens (B, N, D) of images (B, C, H, W).

        Raises:
            InvalidArgumentError: the rank, the channels, the height or the width is not the module's.
        """
        check_images(pixel_values, channels=self.in_channels, size=self.img_size)
        return self.project(pixel_values)

    def project(self, pixel_values: Tensor) -> Tensor:
        """The same for images of any height and width that are multiples of the patch; nothing is checked."""
        x: Tensor = self.projection(pixel_values)  # B C H W -> B D H/P W/P
        return x.flatten(2).transpose(1, 2)  # B D H/P W/P -> B N D

    def named_outputs(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """The tokens as `patch_embeddings`."""
        return {"patch_embeddings": self(pixel_values)}
