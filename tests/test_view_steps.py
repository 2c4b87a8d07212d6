"""What is on the page and in the frames, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from photographs import CHELSEA, ROCKET
from PIL import Image, ImageColor, ImageSequence
from view_artifacts import with_tensors

import vitral_view
from vitral.v1 import model_pb2 as pb
from vitral_view import animation, filters, panels, poster, similarity, style
from vitral_view.canvas import Box, Canvas
from vitral_view.scene import Scene
from vitral_view.steps import MEANING, steps
from vitral_view.tiles import fitted

LEFT, TOP, SIDE = 64, 236, 448
"""Where the first panel is on the page."""

DIM, COUNT = 16, 16


@pytest.fixture(scope="module")
def bare(small_repo: Path) -> Scene:
    """Without CLS and positions."""
    return vitral_view.read(small_repo / "tiny", CHELSEA)


@pytest.fixture(scope="module")
def full(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """With CLS and positions."""
    rng = np.random.default_rng(0)
    tensors = {
        "cls_token": rng.normal(size=DIM).astype(np.float32),
        "position_embedding": rng.normal(size=(COUNT + 1, DIM)).astype(np.float32),
    }
    folder = with_tensors(small_repo / "tiny" / "1", tmp_path_factory.mktemp("full"), tensors)
    return vitral_view.read(folder, CHELSEA)


@pytest.fixture(scope="module")
def page(full: Scene) -> NDArray[np.uint8]:
    return poster.draw(full)


@pytest.fixture(scope="module")
def frames(full: Scene) -> list[animation.Frame]:
    return animation.draw(full)


def holds(page: NDArray[np.uint8], part: NDArray[np.uint8]) -> bool:
    """Whether the page shows this picture somewhere, to the last pixel."""
    height, width = part.shape[:2]
    coloured = np.argwhere((part != 255).any(axis=2))
    found: NDArray[np.intp] | None = None
    for down, across in coloured[:: max(1, len(coloured) // 20)]:
        if found is None:
            window = page[down : down + len(page) - height + 1, across : across + page.shape[1] - width + 1]
            found = np.argwhere((window == part[down, across]).all(axis=2))
        else:
            found = found[(page[found[:, 0] + down, found[:, 1] + across] == part[down, across]).all(axis=1)]
    assert found is not None
    return any(np.array_equal(page[y : y + height, x : x + width], part) for y, x in found)


def written(said: str, *, size: float = style.BODY, colour: str = style.INK) -> NDArray[np.uint8]:
    """A line of text as it is drawn, cut out of its white surroundings."""
    canvas = Canvas(1600, 60)
    canvas.text(10, 10, said, size=size, colour=colour)
    return cut_out(canvas.pixels())


def cut_out(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = np.nonzero((pixels != 255).any(axis=2))
    return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def test_the_picture_on_the_page_is_the_preprocessed_one(base_repo: Path, full: Scene, page) -> None:
    scene = vitral_view.read(base_repo / "patch-embedding", ROCKET)
    large = poster.draw(scene)
    shown = large[TOP : TOP + SIDE, LEFT : LEFT + SIDE]
    with Image.open(ROCKET) as opened:
        expected = np.asarray(opened.resize((224, 224), Image.Resampling.BILINEAR))

    np.testing.assert_array_equal(shown[::2, ::2], expected)
    np.testing.assert_array_equal(shown, expected.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(page[TOP : TOP + SIDE : 14, LEFT : LEFT + SIDE : 14], full.pixels)


def test_every_patch_is_in_the_exploded_panel(full: Scene) -> None:
    canvas = Canvas(500, 500)
    exploded = {step.name: step.draw for step in steps(full)}["exploded"]
    exploded(canvas, Box(10, 20, SIDE, SIDE), full)
    shown = canvas.pixels()
    pitch = SIDE / (4 + 3 / 4) * 5 / 4 * 0.8  # four patches and three gaps of a quarter
    for row in range(4):
        for column in range(4):
            if (number := row * 4 + column) == full.followed:
                continue
            middle = [
                int(start + pitch * 1.25 * index + pitch / 2) for start, index in ((20, row), (10, column))
            ]
            near = shown[middle[0] - 4 : middle[0] + 5, middle[1] - 4 : middle[1] + 5].reshape(-1, 3)
            patch = full.patches[number].reshape(-1, 3)
            assert all((patch == colour).all(axis=1).any() for colour in near[:: len(near) - 1])
    assert (shown[20 + int(pitch * 1.12), 12 : 10 + SIDE - 2] == 255).all()


def test_the_followed_patch_is_framed_and_enlarged(full: Scene, page) -> None:
    accent = ImageColor.getrgb(style.ACCENT)
    patch = full.patches[full.followed]
    side = 1472 // 6

    assert holds(page, fitted(patch, side, side)[4:-4, 4:-4])
    row, column = divmod(full.followed, 4)
    edge = page[TOP + row * 112 + 56, LEFT + 512 + column * 112]
    assert tuple(edge) == accent


def test_the_mosaic_and_the_filters_are_on_the_page(full: Scene, page) -> None:
    assert full.tensors.positions is not None
    mosaic = similarity.mosaic(full.tensors.positions, (4, 4))
    times = SIDE // len(mosaic)
    assert holds(page, mosaic.repeat(times, axis=0).repeat(times, axis=1))
    pictures = filters.pictures(full.tensors.weight)
    for index in (0, 7, 15):
        assert holds(page, fitted(pictures[index], 103, 103))


def test_the_rows_of_the_token_panel_are_the_tokens(full: Scene) -> None:
    canvas = Canvas(700, 500)
    draw = {step.name: step.draw for step in steps(full)}["tokens"]
    draw(canvas, Box(0, 0, 700, 28 + 16 * 20), full)
    shown = canvas.pixels()
    left, width = 7 * style.SMALL, 700 - 7 * style.SMALL - 16
    middles = left + ((np.arange(DIM) + 0.5) * width / DIM).astype(int)
    expected = style.signed(full.tokens, of=full.tokens)
    for row in range(COUNT):
        np.testing.assert_array_equal(shown[28 + row * 20 + 10, middles], expected[row])
    assert full.tensors.cls_token is not None
    cls_token = full.tensors.cls_token
    np.testing.assert_array_equal(shown[7, middles], style.signed(cls_token, of=cls_token))


def test_shapes_stand_beside_the_steps(bare: Scene, full: Scene) -> None:
    shapes = {step.name: step.shape for step in steps(full)}
    assert shapes == {
        "resized": "32 × 32 × 3",
        "numbered": "4 × 4 = 16 patches",
        "exploded": "16 × 8 × 8 × 3",
        "one-patch": "8 × 8 × 3 = 192 → 16",
        "tokens": "17 × 16",
        "positions": "17 × 16",
        "filters": "16 × 3 × 8 × 8",
    }
    del shapes["positions"]
    assert {step.name: step.shape for step in steps(bare)} == shapes | {"tokens": "16 × 16"}


def test_what_the_model_has_not_is_left_out_with_a_line(bare: Scene, page) -> None:
    other = poster.draw(bare)
    lines = [written(f"Left out: {line}.") for line in bare.left_out]

    assert [step.name for step in steps(bare)].count("positions") == 0
    assert len(lines) == 2
    assert [holds(other, line) for line in lines] == [True, True]
    assert [holds(page, line) for line in lines] == [False, False]


def test_it_says_what_a_patch_embedding_does_not_see(page, frames) -> None:
    assert holds(page, written(MEANING))
    assert holds(frames[0].pixels, written(MEANING, size=style.SMALL, colour=style.QUIET))


def test_random_weights_are_called_random(full: Scene, page, frames) -> None:
    def badge(said: str, *, loud: bool) -> NDArray[np.uint8]:
        canvas = Canvas(1600, 100)
        canvas.badge(1500, 30, said, loud=loud)
        return cut_out(canvas.pixels())

    random = badge("random weights, seed 0", loud=True)
    assert holds(page, random)
    assert holds(frames[0].pixels, random)

    spec = pb.ModelSpec()
    spec.CopyFrom(full.spec)
    spec.source.weights, spec.source.weights_note = pb.WEIGHTS_ORIGIN_CHECKPOINT, "weights of 가중치"
    trained = poster.draw(Scene(spec, "1", full.tensors, full.pixels, full.values, 0))
    assert not holds(trained, random)
    assert holds(trained, badge(r"weights of \uac00\uc911\uce58", loud=False))


def test_many_patches_are_numbered_in_part(full: Scene) -> None:
    caption = {step.name: step.caption for step in steps(full)}["numbered"]
    assert "is numbered" not in caption

    spec = pb.ModelSpec()
    spec.CopyFrom(full.spec)
    spec.architecture.grid.height = spec.architecture.grid.width = 28
    dense = Scene(spec, "1", full.tensors, full.pixels, full.values, 0)
    assert panels.every(dense) == 2
    assert panels.every(full) == 1


def test_the_page_is_written_as_it_was_drawn_and_always_the_same(full: Scene, page, tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        vitral_view.write(tmp_path / name, full)

    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as opened:
        assert (opened.format, opened.size, opened.info) == ("PNG", (1600, len(page)), {})
        np.testing.assert_array_equal(np.asarray(opened), page)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_the_animation_goes_through_every_step(full: Scene, frames, tmp_path: Path) -> None:
    vitral_view.write(tmp_path / "steps.gif", full)
    with Image.open(tmp_path / "steps.gif") as opened:
        assert opened.info["loop"] == 0
        found = [
            (np.asarray(frame.convert("RGB")), frame.info["duration"])
            for frame in ImageSequence.Iterator(opened)
        ]

    assert len(found) == len(frames) == 7 + 6 + 3 + 8
    assert [duration for _, duration in found] == [frame.milliseconds for frame in frames]
    for (shown, _), frame in zip(found, frames, strict=True):
        white = (frame.pixels == 255).all(axis=2)
        assert (shown[white] == 255).all()
        assert np.abs(shown.astype(int) - frame.pixels).mean() < 3
