"""From an image to one token per patch, as one convolution."""

from __future__ import annotations

from torch import Tensor, nn

from vitral.errors import InvalidArgumentError

LARGEST = 2**31 - 1
"""Largest size."""

MOST = 2**29 - 1
"""Most values of the weight, of an image, or of its tokens: in float32 they stay under 2 GiB."""


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
        x: Tensor = self.projection(pixel_values)  # B C H W -> B D H/P W/P
        return x.flatten(2).transpose(1, 2)  # B D H/P W/P -> B N D


def check_sizes(sizes: dict[str, int]) -> None:
    """Refuses sizes that are no positive whole numbers or too large, and images that patches do not tile.

    Raises:
        InvalidArgumentError: with the name and the number.
    """
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidArgumentError(f"{name} must be a positive whole number, not {value!r}")
        if value > LARGEST:
            raise InvalidArgumentError(f"{name} is {value}, the largest is {LARGEST}")
    image, patch = sizes["img_size"], sizes["patch_size"]
    if image < patch:
        raise InvalidArgumentError(f"image of {image} x {image} is smaller than one {patch} x {patch} patch")
    if image % patch:
        raise InvalidArgumentError(
            f"img_size {image} is not a multiple of patch_size {patch}: {image % patch} pixels are left over"
        )
    channels, width = sizes["in_channels"], sizes["embed_dim"]
    counts = {
        f"the weight of {width} x {channels} x {patch} x {patch}": width * channels * patch * patch,
        f"an image of {channels} x {image} x {image}": channels * image * image,
        f"the tokens of {(image // patch) ** 2} x {width}": (image // patch) ** 2 * width,
    }
    for what, count in counts.items():
        if count > MOST:
            raise InvalidArgumentError(f"{what} would have {count} values, the most is {MOST}")


def check_images(pixel_values: Tensor, *, channels: int, size: int) -> None:
    """Refuses a batch that is not (B, channels, size, size).

    Only the static axes are looked at, so that an export does not fix the batch.

    Raises:
        InvalidArgumentError: with the numbers.
    """
    if pixel_values.dim() != 4:
        raise InvalidArgumentError(
            f"pixel_values has {pixel_values.dim()} axes, 4 are expected: batch, channels, height, width"
        )
    _, given, height, width = pixel_values.shape
    if given != channels:
        raise InvalidArgumentError(f"pixel_values has {given} channels, the module takes {channels}")
    if height != size or width != size:
        raise InvalidArgumentError(
            f"pixel_values is {height} x {width}, the module takes images of {size} x {size}"
        )
