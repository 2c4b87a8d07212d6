"""Pictures made of equal pieces: an image cut into patches, and pieces laid out again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHITE = 255


def cut(pixels: NDArray[np.uint8], grid: tuple[int, int], patch: tuple[int, int]) -> NDArray[np.uint8]:
    """The patches of an image, row by row: (H, W, 3) -> (N, P, P, 3). What is over at the rim is dropped."""
    (rows, columns), (height, width) = grid, patch
    inside = pixels[: rows * height, : columns * width]
    cells = inside.reshape(rows, height, columns, width, -1)  # H W 3 -> R P C P 3
    return cells.transpose(0, 2, 1, 3, 4).reshape(rows * columns, height, width, -1)


def flatten(
    values: NDArray[np.float32], grid: tuple[int, int], patch: tuple[int, int]
) -> NDArray[np.float32]:
    """The values of each patch, in the order a convolution reads them: (C, H, W) -> (N, C * P * P)."""
    (rows, columns), (height, width) = grid, patch
    inside = values[:, : rows * height, : columns * width]
    cells = inside.reshape(len(values), rows, height, columns, width)  # C H W -> C R P C' P
    return cells.transpose(1, 3, 0, 2, 4).reshape(rows * columns, -1)


def highest_contrast(patches: NDArray[np.uint8]) -> int:
    """The patch whose grey values (mean of the channels) deviate most; the first of equals."""
    grey = patches.mean(axis=-1, dtype=np.float64).reshape(len(patches), -1)
    return int(grey.std(axis=1).argmax())


def arrange(pieces: NDArray[np.uint8], columns: int, gap: int) -> NDArray[np.uint8]:
    """Lays pieces (N, h, w, 3) out row by row with white gaps between them."""
    count, height, width, _ = pieces.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    canvas = np.full(shape, WHITE, np.uint8)
    for index, piece in enumerate(pieces):
        row, column = divmod(index, columns)
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = piece
    return canvas


def fitted(rgb: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """An image at exactly this size, its pixels kept square-edged: each shows as the area it covers."""
    down, across = -(-height // rgb.shape[0]), -(-width // rgb.shape[1])
    large = rgb.repeat(down, axis=0).repeat(across, axis=1)
    if large.shape[:2] == (height, width):
        return large
    return np.asarray(Image.fromarray(large).resize((width, height), Image.Resampling.BOX))


def resampled(values: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Values (h, w) at exactly this size: the mean where there are more than pixels, repeated where fewer."""
    large = values.repeat(-(-height // len(values)), axis=0).repeat(-(-width // values.shape[1]), axis=1)
    return np.asarray(Image.fromarray(large).resize((width, height), Image.Resampling.BOX))
