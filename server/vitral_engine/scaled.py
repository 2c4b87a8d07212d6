"""JPEGs decoded at a half, a quarter or an eighth of their sides, where the resize shrinks them anyway.

The inverse transform of a JPEG gives each block of 8 x 8 in fewer pixels at less cost. What comes out is
close to the picture resized, and not the same to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from vitral.dynamic import Size
from vitral.v1 import model_pb2 as pb
from vitral_engine import crop

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

GAP = 1.5
"""Sides that are decoded are at least this many times those that are resized to.

12 megapixels to 224 x 224 are decoded at an eighth; 2 would make that a quarter, with half the drift and a
third more time.
"""

_SCALES = (8, 4, 2)

# EXIF orientations that exchange the sides, and the others: whether x, and y, then runs from the far end.
_TURNS = {5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}
_FLIPS = {2: (1, 0), 3: (1, 1), 4: (0, 1)}


@dataclass(frozen=True)
class Extent:
    """A picture inside the pixels that were decoded of it. Heights and widths are upright.

    Attributes:
        height, width: of the picture in its file.
        box: where it lies: whole blocks are decoded, and the last ones hang over.
        pixels: that decoding holds at once.
    """

    height: int
    width: int
    box: Box
    pixels: int


def shrink(
    image: Image.Image, preprocessing: pb.Preprocessing, *, size: Size | None = None, gap: float = GAP
) -> Extent | None:
    """Has an opened image decoded at a fraction of its sides; None where it stays as it is.

    It stays unless it is a JPEG whose sides, shrunk, are at least `gap` times those it is resized to, where
    rows of this size are wanted, or of the contract's own.
    """
    if not isinstance(image, JpegImageFile) or preprocessing.resample == pb.RESAMPLE_NEAREST:
        return None
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turned = orientation in _TURNS
        height, width = (image.width, image.height) if turned else (image.height, image.width)
        target = crop.resized(preprocessing, height=height, width=width, size=size)
    except Exception:  # damaged EXIF, or a picture too long: whoever decodes or resizes it says so
        return None
    shrunk = min(height / target[0], width / target[1])
    scale = next((by for by in _SCALES if shrunk >= by * gap), None)
    if scale is None:
        return None
    whole = image.width * image.height
    sides = image.width / scale, image.height / scale
    image.draft(None, (image.width // scale, image.height // scale))
    progressive = "progressive" in image.info  # all of its coefficients are held until the last scan
    pixels = whole if progressive else image.width * image.height
    return Extent(height, width, _upright(sides, image.size, orientation), pixels)


def _upright(sides: tuple[float, float], size: tuple[int, int], orientation: int) -> Box:
    """The box of a picture of these sides in the corner of a file's pixels, once these are set upright."""
    far_x, far_y = _TURNS.get(orientation) or _FLIPS.get(orientation, (0, 0))
    (width, height), (columns, rows) = sides, size
    if orientation in _TURNS:
        width, height, columns, rows = height, width, rows, columns
    left, top = far_x * (columns - width), far_y * (rows - height)
    return left, top, left + width, top + height
