"""Checks of sizes and of input shapes that the modules share."""

from __future__ import annotations

from torch import Tensor

from vitral.errors import InvalidArgumentError

LARGEST = 2**31 - 1
"""Largest size."""

MOST = 2**29 - 1
"""Most values of the weight, of an image, or of its tokens: in float32 they stay under 2 GiB."""


def check_sizes(sizes: dict[str, int]) -> None:
    """Refuses sizes that are no positive whole numbers or too large, and images that patches do not tile.

    `sizes` has `img_size`, `patch_size` and `embed_dim`, and `in_channels` where the module sees pixels.

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
    width = sizes["embed_dim"]
    counts = {f"the tokens of {(image // patch) ** 2} x {width}": (image // patch) ** 2 * width}
    if (channels := sizes.get("in_channels")) is not None:
        counts = {
            f"the weight of {width} x {channels} x {patch} x {patch}": width * channels * patch * patch,
            f"an image of {channels} x {image} x {image}": channels * image * image,
        } | counts
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


def check_tokens(patch_embeddings: Tensor, *, count: int, width: int) -> None:
    """Refuses a batch of tokens that is not (B, count, width).

    Raises:
        InvalidArgumentError: with the numbers.
    """
    if patch_embeddings.dim() != 3:
        raise InvalidArgumentError(
            f"patch_embeddings has {patch_embeddings.dim()} axes, 3 are expected: batch, patches, features"
        )
    _, given, features = patch_embeddings.shape
    if given != count or features != width:
        raise InvalidArgumentError(
            f"patch_embeddings is {given} x {features} an image, the module takes {count} x {width}"
        )
