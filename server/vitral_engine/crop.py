"""The size of a resize, and the crop around the centre that may follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vitral.dynamic import Size
from vitral.errors import ArtifactError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb

MAX_RESIZED = 16_000_000
"""Most pixels after a resize of the shortest edge: a long and narrow picture would become a huge one."""


@dataclass(frozen=True)
class Rule:
    """Where the middle of an odd number is.

    Attributes:
        first: number of rows that are too many to the first one kept.
        in_front: 1 where an odd number of missing rows has the larger half in front, 0 where behind.
    """

    first: Callable[[int], int]
    in_front: int


DOWN_IN_FRONT = Rule(lambda more: more // 2, in_front=1)
"""transformers on Pillow."""

DOWN_BEHIND = Rule(lambda more: more // 2, in_front=0)
"""transformers on torchvision."""

EVEN_BEHIND = Rule(lambda more: round(more / 2), in_front=0)
"""torchvision itself: halves go to the even number."""


def check(preprocessing: pb.Preprocessing) -> None:
    """Refuses sizes that give no picture, or pictures of several sizes.

    Raises:
        ArtifactError: with the sizes.
    """
    sized, cropped = preprocessing.HasField("size"), preprocessing.HasField("crop_size")
    if sized == bool(preprocessing.shortest_edge):
        raise ArtifactError("the preprocessing needs a size or a shortest edge, and not both")
    if preprocessing.shortest_edge and not cropped:
        edge = preprocessing.shortest_edge
        raise ArtifactError(f"a shortest edge of {edge} gives rows of many sizes: a crop size is needed")
    sizes = {"size": sized, "crop_size": cropped}
    for size in (getattr(preprocessing, name) for name, used in sizes.items() if used):
        if not size.height or not size.width:
            raise ArtifactError(f"the preprocessing has a size of {size.height} x {size.width}")


def resized(
    preprocessing: pb.Preprocessing, *, height: int, width: int, size: Size | None = None
) -> tuple[int, int]:
    """Height and width after the resize of a picture of this size.

    For a row of another size than the contract's own, `size`: a contract without a crop resizes to it. One
    with a crop crops to it, and resizes to what is larger than it by the ratio of its own resize to its own
    crop. So one of a shortest edge has the picture scaled, its proportions kept, until it just covers the
    size enlarged by the ratio of edge to crop: for square sizes, to a shortest edge enlarged like the crop.

    Raises:
        ValueError: they are too large.
    """
    if size is not None:
        return _resized_for(size, preprocessing, height, width)
    edge = preprocessing.shortest_edge
    if not edge:
        return preprocessing.size.height, preprocessing.size.width
    short, long = sorted((height, width))
    longer = int(edge * long / short)  # in float and rounded down, as both libraries have it
    if edge * longer > MAX_RESIZED:
        said = f"{height} x {width}, its shortest edge at {edge}, becomes {edge} x {longer}"
        raise ValueError(f"{said}, over the limit of {MAX_RESIZED} pixels")
    return (longer, edge) if width <= height else (edge, longer)


def _resized_for(size: Size, told: pb.Preprocessing, height: int, width: int) -> tuple[int, int]:
    if not told.HasField("crop_size"):
        return size
    crop = told.crop_size
    if not told.shortest_edge:
        return round(size[0] * told.size.height / crop.height), round(size[1] * told.size.width / crop.width)
    ratio = told.shortest_edge / min(crop.height, crop.width)
    if size[0] * width >= size[1] * height:  # the height is what is short
        rows = round(size[0] * ratio)
        columns = rows * width // height
    else:
        columns = round(size[1] * ratio)
        rows = columns * height // width
    if rows * columns > MAX_RESIZED:
        said = f"{height} x {width}, made to cover {size[0]} x {size[1]}, becomes {rows} x {columns}"
        raise ValueError(f"{said}, over the limit of {MAX_RESIZED} pixels")
    return rows, columns


def centre(pixels: Array, height: int, width: int, *, rule: Rule) -> Array:
    """The middle (height, width, 3) of pixels (H, W, 3), black where they are smaller."""
    (top, above), (left, before) = (
        _middle(have, want, rule) for have, want in zip(pixels.shape[:2], (height, width), strict=True)
    )
    kept = pixels[top : top + height, left : left + width]
    if kept.shape[:2] == (height, width):
        return np.ascontiguousarray(kept)
    whole = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    whole[above : above + kept.shape[0], before : before + kept.shape[1]] = kept
    return whole


def _middle(have: int, want: int, rule: Rule) -> tuple[int, int]:
    """First position kept of an axis, and the number of black ones in front of it."""
    first = rule.first(have - want) if have > want else 0
    return first, (want - have + rule.in_front) // 2 if want > have else 0
