"""How alike the position embeddings of two patches are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitral_view import tiles
from vitral_view.style import coloured

GAP = 1
"""Pixels between two tiles of the mosaic; a tile has one pixel for each patch."""


def cosine(positions: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine similarity of every position to every other: (N, D) -> (N, N). A zero vector is like none."""
    wide = positions.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    units = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    alike: NDArray[np.float64] = units @ units.T
    return alike


def mosaic(positions: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.uint8]:
    """A grid of grids: at each patch's place, its similarity to the patches at all places, -1 to 1."""
    rows, columns = grid
    shades = coloured(cosine(positions), low=-1.0, high=1.0, colours="viridis")  # N N 3
    return tiles.arrange(shades.reshape(-1, rows, columns, 3), columns, GAP)
