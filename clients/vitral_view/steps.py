"""The steps of a patch embedding, in order: title, shape, words, and who draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from vitral_view import panels, projection, weights
from vitral_view.canvas import Box, Canvas
from vitral_view.scene import Scene
from vitral_view.style import ordinal, times

Draw = Callable[[Canvas, Box, Scene], Box]
"""Draws a scene into a box; returns the part of the box it used."""

MEANING = "A patch embedding comes before the encoder: it maps to colour and edges, not to meaning."
"""Stands beside every picture."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: short constant name.
        title: what happens.
        shape: of what there is after it.
        caption: in words.
        draw: draws all of it.
        stages: the same on the way there, in order; empty where there is nothing between.
        pause: milliseconds that each of them stands.
    """

    name: str
    title: str
    shape: str
    caption: str
    draw: Draw
    stages: tuple[Draw, ...] = ()
    pause: int = 240


def steps(scene: Scene) -> list[Step]:
    """The steps of this scene. What its model has nothing for is not among them."""
    found = [_resized(scene), _numbered(scene), _exploded(scene), _one_patch(scene), _tokens(scene)]
    if scene.tensors.positions is not None:
        found.append(_positions(scene))
    return [*found, _filters(scene)]


def _resized(scene: Scene) -> Step:
    contract = scene.spec.preprocessing.contract
    caption = f"What the model sees of the photograph, after its preprocessing ({contract})."
    return Step("resized", "The picture, resized", times(*scene.pixels.shape), caption, panels.resized)


def _numbered(scene: Scene) -> Step:
    rows, columns = scene.grid
    shape = f"{times(rows, columns)} = {rows * columns} patches"
    caption = f"Numbered row by row from 0. Patch {scene.followed}, in orange, is followed from here on."
    if (step := panels.every(scene)) > 1:
        caption += f" Every {ordinal(step)} row and column is numbered."
    return Step("numbered", "The patch grid", shape, caption, panels.numbered)


def _exploded(scene: Scene) -> Step:
    caption = "Side by side, without overlap: each patch is one piece of the window."
    parts = tuple(partial(panels.exploded, apart=share / 6) for share in range(6))
    return Step("exploded", "Cut apart", times(*scene.patches.shape), caption, panels.exploded, parts)


def _one_patch(scene: Scene) -> Step:
    count, width = scene.values.shape[1], scene.tokens.shape[1]
    shape = f"{times(*scene.patches.shape[1:])} = {count} → {width}"
    caption = (
        f"The patch is read channel by channel as {count} numbers; one matrix, the same for every patch, "
        f"makes {width} of them."
    )
    parts = tuple(partial(projection.one_patch, stages=stage) for stage in range(projection.STAGES))
    title = "One patch becomes one token"
    return Step("one-patch", title, shape, caption, projection.one_patch, parts, pause=1200)


def _tokens(scene: Scene) -> Step:
    count, width = scene.tokens.shape
    caption = f"A row for each patch, a column for each of its {width} values: blue below 0, red above."
    fill = [count * part // 8 for part in range(1, 8)]
    parts = [partial(projection.tokens, rows=rows, with_cls=False) for rows in fill]
    if scene.tensors.cls_token is None:
        return Step("tokens", "All tokens", times(count, width), caption, projection.tokens, tuple(parts))
    caption += " CLS is learned, and the same for every picture; its colours have a scale of their own."
    parts.append(partial(projection.tokens, with_cls=False))
    shape = times(count + 1, width)
    return Step("tokens", "All tokens, CLS in front", shape, caption, projection.tokens, tuple(parts))


def _positions(scene: Scene) -> Step:
    table = scene.tensors.table_rows
    caption = (
        "Added to the tokens. At each patch's place, a small grid: the cosine similarity of its position "
        "embedding to that of every patch."
    )
    if table > len(scene.values):
        caption += " The first row, that of CLS, is not shown."
    shape = times(table, scene.tokens.shape[1])
    return Step("positions", "Position embeddings", shape, caption, weights.positions)


def _filters(scene: Scene) -> Step:
    caption = "Row by row of the matrix, as pictures: each from its smallest weight (black) to its largest."
    return Step(
        "filters",
        "The projection's filters",
        times(*scene.tensors.weight.shape),
        caption,
        weights.filter_tiles,
    )
