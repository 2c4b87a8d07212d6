"""What the weights look like: similarity of the positions, and the filters."""

from __future__ import annotations

import numpy as np

from vitral_view import filters, similarity, style, tiles
from vitral_view.canvas import Box, Canvas
from vitral_view.scene import Scene

_LEAST, _MOST = 22, 112
"""Pixels of a filter's tile: one smaller is not seen, one larger shows no more."""

SCALE = 34
"""Pixels below a panel for its colour scale, or a line of words."""


def mosaic_box(scene: Scene, most: Box, wide: int) -> Box:
    """What the mosaic takes: of `most`, or of a square `wide` where that has no pixel for each similarity."""
    rows, columns = (count * (count + similarity.GAP) - similarity.GAP for count in scene.grid)
    if columns > most.width or rows > most.height:
        most = Box(most.left, most.top, wide, wide)
    return most.fit(columns, rows)


def positions(canvas: Canvas, box: Box, scene: Scene) -> Box:
    """The position embeddings' cosine similarity, a grid of grids, with its colour scale."""
    table = scene.tensors.positions
    assert table is not None
    drawn = similarity.mosaic(table, scene.grid)
    used = Box(box.left, box.top, box.width, box.height - SCALE).fit(drawn.shape[1], drawn.shape[0])
    canvas.picture(used, tiles.fitted(drawn, used.width, used.height))
    bar = Box(box.left + 24, used.bottom + 14, 160, 12)
    ramp = style.coloured(np.linspace(-1.0, 1.0, 160)[None], low=-1.0, high=1.0, colours="viridis")
    canvas.picture(bar, tiles.fitted(ramp, bar.width, bar.height))
    middle = bar.top + bar.height / 2
    canvas.text(
        bar.left - 6, middle, "-1", size=style.SMALL, colour=style.QUIET, across="right", down="center"
    )
    canvas.text(bar.right + 6, middle, "1", size=style.SMALL, colour=style.QUIET, down="center")
    return Box(box.left, box.top, used.width, used.height + SCALE)


def shown_filters(scene: Scene, box: Box) -> tuple[int, int, int]:
    """How many filters a box can show, in how many columns, and the pixels from one to the next."""
    count = len(scene.tensors.weight)
    pitch = _MOST
    while pitch > _LEAST and (box.width // pitch) * (box.height // pitch) < count:
        pitch -= 1
    shown = min(count, (box.width // pitch) * (box.height // pitch))
    rows = -(-shown // (box.width // pitch))
    return shown, -(-shown // rows), pitch


def filter_tiles(canvas: Canvas, box: Box, scene: Scene) -> Box:
    """The first filters of the projection, as many as can be seen."""
    count, columns, pitch = shown_filters(scene, box)
    gap = max(2, pitch // 12)
    pictures = filters.pictures(scene.tensors.weight[:count])
    laid = tiles.arrange(
        np.stack([tiles.fitted(piece, pitch - gap, pitch - gap) for piece in pictures]), columns, gap
    )
    used = Box(box.left, box.top, laid.shape[1], laid.shape[0])
    canvas.picture(used, laid)
    if count < len(scene.tensors.weight):
        said = f"the first {count} of {len(scene.tensors.weight)}"
        canvas.text(used.left, used.bottom + 8, said, size=style.SMALL, colour=style.QUIET)
        return Box(used.left, used.top, used.width, used.height + SCALE)
    return used
