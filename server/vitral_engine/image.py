"""Image files to RGB pixels, as `transformers.image_utils.load_image` reads them.

EXIF orientation is applied. L, LA, P, 1, RGBA and CMYK become RGB, alpha over white. Sixteen-bit and float
modes are refused by name: Pillow's conversion would saturate them without a word.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vitral.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is decoded; of GIF and TIFF the first frame. The list is explicit: Pillow would start Ghostscript."""

MAX_PIXELS = 89_478_485
"""Most pixels of one image, checked in the header before anything is decoded."""

_WIDE = ("I", "F")
_KNOWN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The image in `data` as uint8 (H, W, 3).

    Raises:
        ImageError: see `open_rgb`.
    """
    return np.asarray(open_rgb(data, max_pixels=max_pixels))


def open_rgb(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in `data`, decoded, upright, in mode RGB.

    Raises:
        ImageError: cause `empty`, `format`, `too_many_pixels`, `mode` or `corrupt`.
    """
    if not data:
        raise ImageError("image is empty, 0 bytes", cause="empty")
    image = _open(data, max_pixels)
    width, height = image.size
    if width * height > max_pixels:
        message = f"image is {height} x {width}, {width * height} pixels, over the limit of {max_pixels}"
        raise ImageError(message, cause="too_many_pixels")
    if image.mode.startswith(_WIDE) or image.mode not in _KNOWN:
        raise ImageError(f"image mode {image.mode} cannot be turned into 8-bit RGB faithfully", cause="mode")
    try:
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except Exception as error:  # decoders raise whatever they like on damaged files
        kind = image.format or "image"
        raise ImageError(
            f"{kind} of {len(data)} bytes cannot be decoded: {error}", cause="corrupt"
        ) from error


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"image has too many pixels, the limit is {max_pixels}: {error}"
        raise ImageError(message, cause="too_many_pixels") from error
    except Exception as error:  # an unknown format, or a header no decoder takes
        known = ", ".join(FORMATS)
        message = f"{len(data)} bytes are no image of a known format ({known})"
        raise ImageError(message, cause="format") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode == "RGB":
        image.load()
        return image
    return image.convert("RGB")
