"""The numbers behind the figures: each against a computation of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from photographs import ASTRONAUT, CHELSEA, COFFEE
from PIL import Image
from view_artifacts import with_tensors

import vitral_engine
import vitral_view
from vitral.errors import ArtifactError, ImageError, InvalidArgumentError
from vitral_view import filters, similarity, tiles
from vitral_view.scene import Scene

SIDE, PATCH, GRID, DIM = 32, 8, 4, 16


@pytest.fixture(scope="module")
def scene(small_repo: Path) -> Scene:
    return vitral_view.read(small_repo / "tiny", CHELSEA)


def resized(photograph: Path, side: int) -> np.ndarray:
    with Image.open(photograph) as opened:
        return np.asarray(opened.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))


def test_the_pixels_are_those_of_the_preprocessing(scene: Scene) -> None:
    np.testing.assert_array_equal(scene.pixels, resized(CHELSEA, SIDE))


@pytest.mark.parametrize("photograph", [CHELSEA, ASTRONAUT])
def test_the_tokens_are_those_that_are_served(base_repo: Path, photograph: Path) -> None:
    scene = vitral_view.read(base_repo / "patch-embedding", photograph)
    model = vitral_engine.open(base_repo / "patch-embedding", device="cpu")
    [served] = model.embed([photograph])
    model.close()

    assert scene.tokens.shape == (196, 768)
    error = np.linalg.norm(scene.tokens - served.patches) / np.linalg.norm(served.patches)
    assert error < 1e-6
    np.testing.assert_allclose(scene.tokens[[0, 1, 14, 195]], served.patches[[0, 1, 14, 195]], atol=1e-5)


def test_patches_and_values_lie_row_by_row(scene: Scene) -> None:
    values = scene.values.reshape(GRID, GRID, 3, PATCH, PATCH)
    for row, column in ((0, 0), (0, 3), (2, 1), (3, 3)):
        cell = scene.pixels[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
        np.testing.assert_array_equal(scene.patches[row * GRID + column], cell)
        expected = (cell.astype(np.float64).transpose(2, 0, 1) / 255 - 0.5) / 0.5
        np.testing.assert_allclose(values[row, column], expected, atol=1e-6)


def test_the_patch_of_largest_contrast_is_followed_unless_one_is_named(small_repo: Path) -> None:
    scene = vitral_view.read(small_repo / "tiny", ASTRONAUT)
    grey = resized(ASTRONAUT, SIDE).astype(np.float64).mean(axis=2)
    spread = [
        grey[top : top + PATCH, left : left + PATCH].std()
        for top in range(0, SIDE, PATCH)
        for left in range(0, SIDE, PATCH)
    ]

    assert scene.followed == int(np.argmax(spread))
    assert vitral_view.read(small_repo / "tiny", ASTRONAUT, patch=3).followed == 3


@pytest.mark.parametrize("patch", [-1, 16])
def test_a_patch_that_is_not_there_is_refused(small_repo: Path, patch: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"no patch {patch}: model tiny has 0 to 15"):
        vitral_view.read(small_repo / "tiny", CHELSEA, patch=patch)


def test_a_picture_that_cannot_be_read_is_named(small_repo: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot read .*none\.jpg: No such file"):
        vitral_view.read(small_repo / "tiny", tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="10 bytes are no image"):
        vitral_view.read(small_repo / "tiny", tmp_path / "text.jpg")


def test_each_filter_goes_from_its_own_smallest_weight_to_its_largest(scene: Scene) -> None:
    weight = scene.tensors.weight.copy()
    weight[1] *= 1000
    weight[2] = 0.25
    shown = filters.pictures(weight)

    assert shown.shape == (DIM, PATCH, PATCH, 3)
    for index in (0, 1, 15):
        assert (shown[index].min(), shown[index].max()) == (0, 255)
        mine = weight[index].astype(np.float64)
        expected = (mine - mine.min()) / (mine.max() - mine.min())
        np.testing.assert_allclose(shown[index] / 255, expected.transpose(1, 2, 0), atol=0.5 / 255 + 1e-9)
    assert np.unique(shown[2]).tolist() == [128]


def test_the_mosaic_holds_every_similarity_at_its_place() -> None:
    rows, columns = 3, 5
    positions = np.random.default_rng(0).normal(size=(rows * columns, 7)).astype(np.float32)
    mosaic = similarity.mosaic(positions, (rows, columns))
    gap = similarity.GAP

    assert mosaic.shape == (rows * (rows + gap) - gap, columns * (columns + gap) - gap, 3)
    for one in (0, 6, 14):
        for other in range(rows * columns):
            a, b = positions[one].astype(np.float64), positions[other].astype(np.float64)
            alike = np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))
            top = one // columns * (rows + gap) + other // columns
            left = one % columns * (columns + gap) + other % columns
            expected = np.array(colormaps["viridis"]((alike + 1) / 2)[:3]) * 255
            np.testing.assert_allclose(mosaic[top, left], expected, atol=1.0)
    assert (mosaic[rows] == 255).all()
    assert (mosaic[:, columns] == 255).all()


def test_a_position_of_zeros_is_like_none() -> None:
    positions = np.zeros((4, 3), np.float32)
    positions[1] = 2
    alike = similarity.cosine(positions)

    assert alike[1, 1] == pytest.approx(1)
    assert alike.sum() == pytest.approx(1)


def test_cls_is_not_taken_for_a_position(small_repo: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cls_token = rng.normal(size=DIM).astype(np.float32)
    table = rng.normal(size=(GRID * GRID + 1, DIM)).astype(np.float32)
    tensors = {"cls_token": cls_token, "position_embedding": table}
    folder = with_tensors(small_repo / "tiny" / "1", tmp_path / "with", tensors)
    with_cls = vitral_view.read(folder, CHELSEA)
    without = vitral_view.read(
        with_tensors(small_repo / "tiny" / "1", tmp_path / "without", {"position_embedding": table[1:]}),
        CHELSEA,
    )

    assert with_cls.left_out == ()
    for scene in (with_cls, without):
        assert scene.tensors.positions is not None
        np.testing.assert_array_equal(scene.tensors.positions, table[1:])
    assert without.left_out == ("CLS in front, for this model has no CLS token",)


def test_a_table_of_other_rows_is_left_out_with_its_numbers(small_repo: Path, tmp_path: Path) -> None:
    table = np.zeros((GRID * GRID + 2, DIM), np.float32)
    folder = with_tensors(small_repo / "tiny" / "1", tmp_path, {"position_embedding": table})
    scene = vitral_view.read(folder, CHELSEA)

    assert scene.tensors.positions is None
    assert "position embeddings, for their 18 rows do not fit its 16 patches" in scene.left_out


def test_a_tensor_of_another_shape_is_refused(small_repo: Path, tmp_path: Path) -> None:
    tensors = {"cls_token": np.zeros(DIM + 1, np.float32)}
    folder = with_tensors(small_repo / "tiny" / "1", tmp_path, tensors)

    with pytest.raises(ArtifactError, match=r"cls_token of embedding\.safetensors is 17, .* need 16"):
        vitral_view.read(folder, CHELSEA)


def test_an_image_is_fitted_by_area() -> None:
    pixels = resized(COFFEE, 12)

    np.testing.assert_array_equal(tiles.fitted(pixels, 36, 24), pixels.repeat(2, axis=0).repeat(3, axis=1))
    halved = pixels.reshape(6, 2, 6, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(tiles.fitted(pixels, 6, 6), halved, atol=1.0)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_allclose(tiles.resampled(values, 2, 3), values.reshape(3, 2, 2).mean(axis=2))
