"""Image files to RGB pixels, as `transformers.image_utils.load_image` reads them.

EXIF orientation is applied. L, LA, P, 1, RGBA and CMYK become RGB, alpha over white. Sixteen-bit and float
modes are refused by name: Pillow's conversion would saturate them without a word. A spec may have a rule for
unsigned 16-bit grey.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from vitral.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is decoded; of GIF and TIFF the first frame. The list is explicit: Pillow would start Ghostscript."""

MAX_PIXELS = 89_478_485
"""Most pixels of one image, checked in the header before anything is decoded."""

MAX_SIDE = 65_535
"""Longest side in pixels: a resize needs memory for each source column, whatever the height."""

MAX_SCANS = 100
"""Most scans of a JPEG. A few hundred kilobytes of empty progressive scans would decode for minutes."""

DIVIDE = "divide-by-257"
"""Rule for 16-bit pictures: unsigned grey is divided by 257, rounded to the nearest level."""

HIGH_DEPTH_RULES = ("", DIVIDE)
"""Rules for 16-bit pictures; the empty one refuses them."""

_START_OF_SCAN = 0xDAFF  # FF DA, little endian
_PART = 1 << 18  # pairs looked at in one go, so that little memory is taken for them
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
_BITS, _PHOTOMETRIC = 258, 262  # TIFF tags
_KNOWN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, high_depth: str = "") -> NDArray[np.uint8]:
    """The image in `data` as uint8 (H, W, 3).

    Raises:
        ImageError: see `open_rgb`.
    """
    return np.asarray(open_rgb(data, max_pixels=max_pixels, high_depth=high_depth))


def open_rgb(data: bytes, *, max_pixels: int = MAX_PIXELS, high_depth: str = "") -> Image.Image:
    """The image in `data`, decoded, upright, in mode RGB.

    Raises:
        ImageError: see `open_header` and `to_rgb`.
    """
    return to_rgb(open_header(data, max_pixels=max_pixels, high_depth=high_depth), len(data))


def open_header(data: bytes, *, max_pixels: int = MAX_PIXELS, high_depth: str = "") -> Image.Image:
    """The image in `data`, of which only the header was read.

    Args:
        data: the bytes of an image file.
        max_pixels: most pixels.
        high_depth: rule for 16-bit pictures, one of `HIGH_DEPTH_RULES`.

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
    if max(width, height) > MAX_SIDE:
        message = f"image is {height} x {width}, a side over the limit of {MAX_SIDE}"
        raise ImageError(message, cause="too_many_pixels")
    if (high_depth != DIVIDE or image.mode not in _SIXTEEN) and image.mode not in _KNOWN:
        raise ImageError(f"image mode {image.mode} cannot be turned into 8-bit RGB faithfully", cause="mode")
    if image.mode in _SIXTEEN:
        _check_sixteen(image)
    if isinstance(image, JpegImageFile):  # so is a file of several, whose format is MPO
        if (scans := _scans(data)) > MAX_SCANS:
            message = f"JPEG of {len(data)} bytes has {scans} scans, over the limit of {MAX_SCANS}"
            raise ImageError(message, cause="corrupt")
        # At the end of each part it is given the decoder takes its slow path, and the lock of Python.
        image.decodermaxblock = len(data)
    return image


def to_rgb(image: Image.Image, size: int) -> Image.Image:
    """An opened image, from a file of `size` bytes, decoded, upright, in mode RGB.

    Raises:
        ImageError: cause `corrupt`.
    """
    try:
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except Exception as error:  # decoders raise whatever they like on damaged files
        kind = image.format or "image"
        raise ImageError(f"{kind} of {size} bytes cannot be decoded: {error}", cause="corrupt") from error


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


def _scans(data: bytes) -> int:
    """Scans of a JPEG, those of embedded previews too: inside a scan the two bytes cannot stand.

    NumPy finds pairs of bytes several times as fast as `bytes.count`, and lets other threads run.
    """
    count = 0
    for start in (0, 1):
        pairs = np.frombuffer(data, "<u2", (len(data) - start) // 2, start)
        parts = (pairs[at : at + _PART] for at in range(0, len(pairs), _PART))
        count += sum(int(np.count_nonzero(part == _START_OF_SCAN)) for part in parts)
    return count


def _check_sixteen(image: Image.Image) -> None:
    """Refuses what Pillow gives as 16 bits though its values are fewer, or upside down."""
    tags = getattr(image, "tag_v2", {})  # TIFF has them
    bits = tags.get(_BITS, (16,))[0]
    if bits != 16:
        raise ImageError(f"image mode {image.mode} of {bits} bits cannot be scaled from 16", cause="mode")
    if tags.get(_PHOTOMETRIC) == 0:
        raise ImageError(f"image mode {image.mode} with white as 0 cannot be scaled", cause="mode")


def _from_sixteen(image: Image.Image) -> Image.Image:
    """Unsigned 16-bit grey as RGB, the transparent value white."""
    wide = np.asarray(image)
    levels = ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        levels[wide == transparent] = 255
    return Image.fromarray(levels).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN:
        return _from_sixteen(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode == "RGB":
        image.load()
        return image
    return image.convert("RGB")
