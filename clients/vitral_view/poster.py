"""All steps on one page."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitral import spec as specs
from vitral_view import panels, style, weights
from vitral_view.canvas import Box, Canvas
from vitral_view.scene import Scene
from vitral_view.steps import MEANING, Step, steps

_MARGIN, _COLUMN, _GAP = 64, panels.SIDE, 64
_FULL = 3 * _COLUMN + 2 * _GAP
_WIDE = 2 * _COLUMN + _GAP
WIDTH = _FULL + 2 * _MARGIN
"""Width of the page in pixels. Its height follows from what is on it."""

_TALLEST = 4000
_BAND = 300  # height of a step that takes the whole width
_LINE = 25


def draw(scene: Scene) -> NDArray[np.uint8]:
    """The page, uint8 (height, WIDTH, 3)."""
    canvas = Canvas(WIDTH, _TALLEST)
    top = _header(canvas, scene)
    number = 1
    for row in _rows(scene):
        bottom = top
        for step, left, width, height in row:
            box = Box(_MARGIN + left, top, width, height)
            bottom = max(bottom, _panel(canvas, box, scene, step, number))
            number += 1
        top = bottom + 44
    bottom = _footer(canvas, scene, top)
    return canvas.pixels()[:bottom]


def _rows(scene: Scene) -> list[list[tuple[Step, int, int, int]]]:
    """Rows of (step, left, width, most height)."""
    found = {step.name: step for step in steps(scene)}
    thirds = (found["resized"], found["numbered"], found["exploded"])
    rows = [
        [(step, place * (_COLUMN + _GAP), _COLUMN, _COLUMN) for place, step in enumerate(thirds)],
        [(found["one-patch"], 0, _FULL, _BAND)],
        [(found["tokens"], 0, _FULL, _BAND)],
    ]
    if "positions" not in found:
        return [*rows, [(found["filters"], 0, _FULL, _COLUMN)]]
    mosaic = weights.mosaic_box(scene, Box(0, 0, _COLUMN, _COLUMN), _WIDE)
    left = (_COLUMN if mosaic.width <= _COLUMN else _WIDE) + _GAP
    positions = (found["positions"], 0, left - _GAP, mosaic.height + weights.SCALE)
    return [*rows, [positions, (found["filters"], left, _FULL - left, max(mosaic.height, _COLUMN))]]


def _header(canvas: Canvas, scene: Scene) -> int:
    rows, columns = scene.grid
    canvas.text(_MARGIN, 48, "What a patch embedding does to a picture", size=style.TITLE, bold=True)
    sizes = f"{style.times(*scene.pixels.shape)} → {style.times(rows * columns, scene.tokens.shape[1])}"
    said = f"Model {scene.name}, version {scene.version}: {sizes}. Fingerprint {scene.spec.fingerprint[:12]}."
    canvas.text(_MARGIN, 104, said, colour=style.QUIET)
    canvas.badge(_MARGIN + _FULL - 10, 56, scene.weights, loud=specs.is_random(scene.spec))
    return 168


def _panel(canvas: Canvas, box: Box, scene: Scene, step: Step, number: int) -> int:
    """Draws a step below its heading; returns where it ends."""
    canvas.text(box.left, box.top, f"{number}", size=style.HEADING, bold=True, colour=style.QUIET)
    canvas.text(box.left + 26, box.top, step.title, size=style.HEADING, bold=True)
    canvas.text(box.left + 26, box.top + 32, step.shape, colour=style.SHAPE, bold=True)
    used = step.draw(canvas, Box(box.left, box.top + 68, box.width, box.height), scene)
    top = used.bottom + 10
    for line in style.wrapped(step.caption, box.width):
        canvas.text(box.left, top, line, colour=style.QUIET)
        top += _LINE
    return top


def _footer(canvas: Canvas, scene: Scene, top: int) -> int:
    canvas.lines([(_MARGIN, top, _MARGIN + _FULL, top)], colour=style.RULE, width=1)
    top += 20
    for said in (MEANING, *(f"Left out: {line}." for line in scene.left_out)):
        canvas.text(_MARGIN, top, said)
        top += _LINE + 4
    return top + 30
