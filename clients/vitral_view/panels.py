"""The picture's own panels: resized, numbered, exploded. Each returns the part of its box it used."""

from __future__ import annotations

import numpy as np

from vitral_view import style, tiles
from vitral_view.canvas import Box, Canvas
from vitral_view.scene import Scene

SIDE = 448
"""Pixels of the longer side of a picture, about."""

_LEGIBLE = 24
"""Pixels of a cell that a number can be read in."""

_PALE = 0.55
"""Share of white over the picture under the numbers."""


def resized(canvas: Canvas, box: Box, scene: Scene) -> Box:
    """The picture as the model sees it."""
    height, width = scene.pixels.shape[:2]
    used = box.fit(width, height)
    canvas.picture(used, tiles.fitted(scene.pixels, used.width, used.height))
    return used


def numbered(canvas: Canvas, box: Box, scene: Scene) -> Box:
    """The patch grid over the picture, the patches numbered; the followed one keeps its colours."""
    whole = tiles.arrange(scene.patches, scene.grid[1], 0)
    used = box.fit(whole.shape[1], whole.shape[0])
    pale = 255 * _PALE + whole * (1 - _PALE)
    mine = _cell(Box(0, 0, whole.shape[1], whole.shape[0]), scene)
    area = np.s_[mine.top : mine.bottom, mine.left : mine.right]
    pale[area] = whole[area]
    canvas.picture(used, tiles.fitted(pale.astype(np.uint8), used.width, used.height))
    canvas.lines(_grid_lines(used, scene.grid), colour="white", width=1)
    _numbers(canvas, used, scene)
    canvas.rectangle(_cell(used, scene), colour=style.ACCENT, width=3)
    return used


def every(scene: Scene) -> int:
    """Of how many rows, and columns, one is numbered, so that the numbers can be read."""
    return -(-_LEGIBLE * max(scene.grid) // SIDE)


def exploded(canvas: Canvas, box: Box, scene: Scene, *, apart: float = 1.0) -> Box:
    """The patches cut apart; `apart` from 0, still whole, to 1."""
    columns = scene.grid[1]
    times = max(1, -(-2 * box.width // (columns * scene.patch_size[1])))
    large = scene.patches.repeat(times, axis=1).repeat(times, axis=2)
    gap = round(apart * min(large.shape[1:3]) / 4)
    spread = tiles.arrange(large, columns, gap)
    used = box.fit(scene.pixels.shape[1], scene.pixels.shape[0])
    canvas.picture(used, tiles.fitted(spread, used.width, used.height))
    across, down = used.width / spread.shape[1], used.height / spread.shape[0]
    row, column = divmod(scene.followed, columns)
    left = used.left + column * (large.shape[2] + gap) * across
    top = used.top + row * (large.shape[1] + gap) * down
    mine = Box(round(left), round(top), round(large.shape[2] * across), round(large.shape[1] * down))
    canvas.rectangle(mine, colour=style.ACCENT, width=3)
    return used


def _cell(box: Box, scene: Scene) -> Box:
    """The followed patch's part of a box that shows the whole grid."""
    rows, columns = scene.grid
    row, column = divmod(scene.followed, columns)
    left, top = column * box.width // columns, row * box.height // rows
    right, bottom = (column + 1) * box.width // columns, (row + 1) * box.height // rows
    return Box(box.left + left, box.top + top, right - left, bottom - top)


def _grid_lines(box: Box, grid: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    rows, columns = grid
    down = [box.left + box.width * column / columns for column in range(1, columns)]
    across = [box.top + box.height * row / rows for row in range(1, rows)]
    return [
        *((x, float(box.top), x, float(box.bottom)) for x in down),
        *((float(box.left), y, float(box.right), y) for y in across),
    ]


def _numbers(canvas: Canvas, box: Box, scene: Scene) -> None:
    rows, columns = scene.grid
    step = every(scene)
    cell = step * min(box.width / columns, box.height / rows)
    size = min(style.HEADING, cell / ((0.85 if step == 1 else 0.95) * len(str(rows * columns - 1))))
    for row in range(0, rows, step):
        for column in range(0, columns, step):
            if (number := row * columns + column) == scene.followed:
                continue
            left = box.left + box.width * (column + 0.5) / columns
            top = box.top + box.height * (row + 0.5) / rows
            canvas.text(left, top, str(number), size=size, across="center", down="center")
