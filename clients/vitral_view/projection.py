"""One patch on its way through the projection, and what the projection makes of all of them."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vitral_view import style, tiles
from vitral_view.canvas import Box, Canvas
from vitral_view.scene import Scene

STAGES = 3
"""Stages of `one_patch`: its values, the projection, what comes out."""

_LABEL = 26  # pixels of a line of text above or below
_TICKS = 52  # pixels of the numbers left of a curve
_ARROW_ROOM = 10  # pixels before and after an arrow
_MARK = 16  # pixels of the mark beside the followed row
_STRIP = 14  # pixels of the strip that shows CLS


def one_patch(canvas: Canvas, box: Box, scene: Scene, *, stages: int = STAGES) -> Box:
    """The followed patch -> its values -> projection -> its token, as far as `stages`."""
    patch, values, matrix, token = _places(box)
    _patch(canvas, patch, scene)
    if stages > 0:
        _arrow(canvas, patch.right, values.left - _TICKS, patch)
        _values(canvas, values, scene)
    if stages > 1:
        start = values.right if matrix.top == values.top else box.left - _ARROW_ROOM
        _arrow(canvas, start, matrix.left, matrix)
        _matrix(canvas, matrix, scene)
    if stages > 2:
        _arrow(canvas, matrix.right, token.left - _TICKS, matrix)
        _token(canvas, token, scene)
    return Box(box.left, box.top, box.width, token.bottom + _LABEL - box.top)


def _places(box: Box) -> tuple[Box, Box, Box, Box]:
    """Where patch, values, matrix and token go: in one row, or in two where the box is not wide enough."""
    if box.width > 3 * box.height:
        side = min(box.height - 2 * _LABEL, box.width // 6)
        arrow = box.width // 22
        curve = (box.width - 2 * side - 3 * arrow - 2 * _TICKS) // 2
        first = box.left
        second = first + side + arrow + _TICKS + curve + arrow
        lower = upper = box.top + _LABEL
    else:
        side = box.height // 2 - 2 * _LABEL - _MARK
        arrow = box.width // 14
        first = second = box.left + arrow
        curve = box.right - first - side - arrow - _TICKS
        upper, lower = box.top + _LABEL, box.bottom - side - _LABEL
    reach = side + arrow + _TICKS
    return (
        Box(first, upper, side, side),
        Box(first + reach, upper, curve, side),
        Box(second, lower, side, side),
        Box(second + reach, lower, curve, side),
    )


def tokens(canvas: Canvas, box: Box, scene: Scene, *, rows: int | None = None, with_cls: bool = True) -> Box:
    """Every token as a row of colours, CLS in front where the model has it; `rows` only of the patches'."""
    table = scene.tokens
    labels = 7 * style.SMALL
    top, left, width = box.top, box.left + labels, box.width - labels - _MARK
    cls_token = scene.tensors.cls_token
    if cls_token is not None:
        if with_cls:
            strip = Box(left, top, width, _STRIP)
            canvas.picture(strip, style.signed(tiles.resampled(cls_token[None], width, _STRIP), of=cls_token))
            canvas.rectangle(strip, colour=style.INK, width=1)
            _label(canvas, left, top + _STRIP / 2, "CLS")
        top += 2 * _STRIP
    body = Box(left, top, width, box.bottom - top)
    height = body.height / len(table)
    shades = style.signed(tiles.resampled(table, body.width, body.height), of=table)
    if rows is not None:
        shades[round(rows * height) :] = tiles.WHITE
    canvas.picture(body, shades)
    canvas.rectangle(body, colour=style.RULE, width=1)
    if rows is None or rows > scene.followed:
        y = body.top + (scene.followed + 0.5) * height
        canvas.lines(
            [(left - 14, y, left - 2, y), (body.right + 2, y, body.right + 14, y)],
            colour=style.ACCENT,
            width=max(3.0, min(height, 12.0)),
        )
        _label(canvas, left - _MARK + 4, y, f"patch {scene.followed}", colour=style.ACCENT)
    for number, down in ((0, body.top + 6), (len(table) - 1, body.bottom - 8)):
        y = body.top + (scene.followed + 0.5) * height
        if abs(down - y) > 1.3 * style.SMALL:
            _label(canvas, left, down, f"patch {number}")
    return box


def _label(canvas: Canvas, left: float, top: float, said: str, *, colour: str = style.QUIET) -> None:
    canvas.text(left - 8, top, said, size=style.SMALL, colour=colour, across="right", down="center")


def _arrow(canvas: Canvas, start: int, end: int, beside: Box) -> None:
    canvas.arrow(start + _ARROW_ROOM, beside.top + beside.height / 2, end - _ARROW_ROOM)


def _above(canvas: Canvas, box: Box, said: str) -> None:
    canvas.text(box.left, box.top - 8, said, size=style.SMALL, down="bottom")


def _below(canvas: Canvas, box: Box, said: str) -> None:
    canvas.text(box.left, box.bottom + 8, said, size=style.SMALL, colour=style.QUIET)


def _patch(canvas: Canvas, box: Box, scene: Scene) -> None:
    pixels = scene.patches[scene.followed]
    canvas.picture(box, tiles.fitted(pixels, box.width, box.height))
    canvas.rectangle(box, colour=style.ACCENT, width=3)
    _above(canvas, box, f"patch {scene.followed}")
    _below(canvas, box, style.times(*pixels.shape))


def _values(canvas: Canvas, box: Box, scene: Scene) -> None:
    values = scene.values[scene.followed]
    a_channel = len(values) // len(style.CHANNELS)
    colours = [style.CHANNELS[index // a_channel] for index in range(len(values))]
    _bars(canvas, box, values, colours)
    _above(canvas, box, f"its {len(values)} values, normalised")
    for index, (name, colour) in enumerate(zip(("red", "green", "blue"), style.CHANNELS, strict=True)):
        left = box.left + box.width * (index + 0.5) / 3
        canvas.text(left, box.bottom + 8, name, size=style.SMALL, colour=colour, across="center")


def _matrix(canvas: Canvas, box: Box, scene: Scene) -> None:
    weight = scene.tensors.weight.reshape(len(scene.tensors.weight), -1)
    drawn = tiles.resampled(weight, box.width, box.height)  # means of several weights, so smaller ones
    canvas.picture(box, style.signed(drawn, of=drawn))
    canvas.rectangle(box, colour=style.RULE, width=1)
    _above(canvas, box, "projection")
    _below(canvas, box, f"{style.times(*weight.shape)}, + bias")


def _token(canvas: Canvas, box: Box, scene: Scene) -> None:
    token = scene.tokens[scene.followed]
    _bars(canvas, box, token, [style.INK] * len(token))
    _above(canvas, box, f"its token: {len(token)} values")
    first = ", ".join(f"{value:.2f}" for value in token[:3])
    _below(canvas, box, f"{first}, ...")


def _bars(canvas: Canvas, box: Box, values: NDArray[np.float32], colours: list[str]) -> None:
    axes = canvas.axes(box)
    width = max(0.5, 0.8 * box.width / len(values))
    axes.vlines(np.arange(len(values)), 0, values, colors=colours, linewidths=width)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_xticks([])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.axhline(0, color=style.RULE, linewidth=1, zorder=0)
    axes.tick_params(axis="y", colors=style.QUIET, length=3, width=1)
    for label in axes.get_yticklabels():
        label.set_fontproperties(style.font(style.SMALL - 2))
    for name, spine in axes.spines.items():
        spine.set_visible(name == "left")
        spine.set_color(style.RULE)
        spine.set_linewidth(1)
