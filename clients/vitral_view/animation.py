"""The steps one after the other, as frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitral import spec as specs
from vitral_view import style
from vitral_view.canvas import Box, Canvas
from vitral_view.scene import Scene
from vitral_view.steps import MEANING, Draw, Step, steps

WIDTH, HEIGHT = 960, 724
"""Size of a frame in pixels."""

_MARGIN = 44
_CONTENT = Box(_MARGIN, 128, WIDTH - 2 * _MARGIN, 448)
_LINE, _SMALL_LINE = 25, 21
_STANDS = 2600  # milliseconds of a finished step


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of the animation, uint8 (HEIGHT, WIDTH, 3), and how long it stands."""

    pixels: NDArray[np.uint8]
    milliseconds: int


def draw(scene: Scene) -> list[Frame]:
    """Every step, with its stages before it."""
    frames = []
    found = steps(scene)
    for number, step in enumerate(found, 1):
        said = f"{number} of {len(found)}"
        frames += [Frame(_frame(scene, step, stage, said), step.pause) for stage in step.stages]
        frames.append(Frame(_frame(scene, step, step.draw, said), _STANDS))
    return frames


def _frame(scene: Scene, step: Step, stage: Draw, place: str) -> NDArray[np.uint8]:
    canvas = Canvas(WIDTH, HEIGHT)
    right = WIDTH - _MARGIN
    canvas.text(_MARGIN, 28, f"{scene.name}, version {scene.version}", size=style.SMALL, colour=style.QUIET)
    canvas.badge(right - 10, 28, scene.weights, loud=specs.is_random(scene.spec))
    canvas.text(_MARGIN, 56, step.title, size=style.HEADING, bold=True)
    canvas.text(right, 92, place, colour=style.QUIET, across="right")
    canvas.text(_MARGIN, 90, step.shape, colour=style.SHAPE, bold=True)
    used = stage(canvas, _CONTENT, scene)
    beside = used.right < _CONTENT.left + _CONTENT.width // 2 + 60
    left, top = (used.right + 32, used.top) if beside else (_MARGIN, used.bottom + 14)
    for line in style.wrapped(step.caption, right - left):
        canvas.text(left, top, line, colour=style.QUIET)
        top += _LINE
    left_out = f" Left out: {'; '.join(scene.left_out)}." if scene.left_out else ""
    top = HEIGHT - 58
    for line in style.wrapped(MEANING + left_out, WIDTH - 2 * _MARGIN, size=style.SMALL):
        canvas.text(_MARGIN, top, line, size=style.SMALL, colour=style.QUIET)
        top += _SMALL_LINE
    return canvas.pixels()
