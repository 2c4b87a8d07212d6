"""A run as a whole: what comes in comes out once, what fails is retried, and another run is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from extracting import hashes, pictures, run, scaled, wanted

import vitral_engine
import vitral_extract
from vitral.errors import InvalidArgumentError
from vitral_extract.embedder import InProcess
from vitral_extract.outlook import look
from vitral_extract.verify import verify


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures, three of them bad. Read only."""
    return pictures(tmp_path_factory.mktemp("source") / "in", 40, bad=(3, 17, 39))


@pytest.fixture(scope="module")
def tiny(small_repo: Path) -> Path:
    return small_repo / "tiny"


def test_every_good_picture_has_its_own_row(preset_repo: Path, source: Path, tmp_path: Path) -> None:
    model = preset_repo / "vit-embedding"
    both = wanted(
        source, outputs=("patch_embeddings", "embeddings"), views=("patches", "mean", "all"), dtype="float32"
    )
    done = run(tmp_path / "out", model, both)

    data = vitral_extract.open(tmp_path / "out")
    engine = vitral_engine.open(model, device="cpu", threads=1)
    assert (done.manifest["rows"], done.manifest["errors"], len(data)) == (37, 3, 37)
    assert data.ids == [f"{n:05}.jpg" for n in range(40) if n not in (3, 17, 39)]
    for name, arrays in data:
        [truth] = engine.embed([source / name], outputs=["patch_embeddings", "embeddings"])
        tokens = truth.outputs["embeddings"]
        np.testing.assert_array_equal(arrays["embeddings.all"], tokens)
        np.testing.assert_array_equal(arrays["embeddings.patches"], tokens[1:])
        np.testing.assert_allclose(arrays["embeddings.mean"], tokens[1:].mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(arrays["patch_embeddings.patches"], truth.outputs["patch_embeddings"])


def test_three_bad_pictures_in_four_hundred(tiny: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", 400, bad=(0, 200, 399))

    run(tmp_path / "out", tiny, wanted(folder, shard_rows=0))

    data = vitral_extract.open(tmp_path / "out")
    assert len(data) == 397
    assert [(error["id"], error["number"], error["stage"], error["reason"]) for error in data.errors] == [
        ("00000.jpg", 0, "decode", "corrupt"),
        ("00200.jpg", 200, "decode", "empty"),
        ("00399.jpg", 399, "decode", "format"),
    ]
    assert "image is empty, 0 bytes" in [error["message"] for error in data.errors]


def test_the_manifest_says_what_was_done_with_what(tiny: Path, source: Path, tmp_path: Path) -> None:
    manifest = run(tmp_path / "out", tiny, wanted(source)).manifest

    spec = vitral_engine.open(tiny, device="cpu").spec
    assert manifest["model"] == "tiny"
    assert manifest["version"] == "1"
    assert manifest["fingerprint"] == spec.fingerprint
    assert manifest["provider"] == "CPUExecutionProvider"
    assert manifest["preprocessing"]["contract"] == spec.preprocessing.contract
    assert manifest["dtype"] == "float16"
    assert manifest["grid"] == [4, 4]
    assert manifest["prefix_tokens"] == {"patch_embeddings": []}
    assert {"numpy", "pillow", "pyarrow", "vitral"} < set(manifest["libraries"])
    assert any(name.startswith("onnxruntime") for name in manifest["libraries"])
    assert len(manifest["source"]) == 64
    assert (manifest["count"], manifest["rows"], manifest["errors"]) == (40, 37, 3)
    assert manifest["weights"]["weights_note"] == "random weights, seed 0"


def test_a_finished_run_is_left_as_it_is(tiny: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(out, tiny, wanted(source))
    before = {path: path.stat().st_mtime_ns for path in (out / "data").iterdir()}

    again = run(out, tiny, wanted(source))

    assert again.work is None
    assert again.manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in (out / "data").iterdir()} == before


@pytest.mark.parametrize(
    "lost", ["data/000001.safetensors", "data/000004.safetensors", "index.parquet", "manifest.json"]
)
def test_what_was_removed_by_hand_is_made_again(tiny: Path, source: Path, tmp_path: Path, lost: str) -> None:
    out = tmp_path / "out"
    run(out, tiny, wanted(source))
    before = hashes(out)
    (out / "data" / "letter.txt").write_text("dear")
    (out / "data" / "000077.npy").write_text("left by a run that died")
    (out / lost).unlink()

    run(out, tiny, wanted(source))

    (out / "data" / "letter.txt").unlink()
    assert hashes(out) == before
    assert verify(out, None, sample=0) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "float32"}, "whose dtype is float16, this one's is float32"),
        ({"format": "npy"}, "whose format is safetensors, this one's is npy"),
        (
            {"views": ("mean",)},
            "whose outputs is patch_embeddings.patches, .* is patch_embeddings.mean",
        ),
        ({"shard_rows": 9}, "whose shard_rows is 8, this one's is 9"),
    ],
)
def test_a_run_of_other_settings_is_refused_by_field(
    tiny: Path, source: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    run(tmp_path / "out", tiny, wanted(source))
    before = hashes(tmp_path / "out")

    for attempt in (change, {**change, "retry_failed": True}):
        with pytest.raises(InvalidArgumentError, match=said):
            run(tmp_path / "out", tiny, wanted(source, **attempt))
    assert hashes(tmp_path / "out") == before


def test_another_model_is_refused_by_fingerprint_and_by_preprocessing(
    tiny: Path, source: Path, tmp_path: Path
) -> None:
    run(tmp_path / "out", tiny, wanted(source))

    with pytest.raises(InvalidArgumentError, match=r"whose fingerprint is \w{64}, this one's is \w{64}"):
        run(tmp_path / "out", scaled(tmp_path / "models", 2.0), wanted(source))
    # The same model under another name is the same embedding space.
    other = shutil.copytree(tiny, tmp_path / "again" / "tiny")
    shutil.move(other / "1", other / "7")
    assert run(tmp_path / "out", other, wanted(source)).work is None
    text = (tmp_path / "out" / "run.json").read_text()
    (tmp_path / "out" / "run.json").write_text(text.replace("BILINEAR", "BICUBIC"))
    with pytest.raises(
        InvalidArgumentError,
        match="whose preprocessing is resample RESAMPLE_BICUBIC, this one's is resample RESAMPLE_BILINEAR",
    ):
        run(tmp_path / "out", tiny, wanted(source))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda folder: (folder / "00040.jpg").write_bytes(b"x"),
            "41 pictures .* 40 was none and is 00040.jpg",
        ),
        (lambda folder: (folder / "00001.jpg").unlink(), "39 pictures .* 1 was 00001.jpg .* is 00002.jpg"),
        (
            lambda folder: (folder / "00001.jpg").write_bytes(b"x"),
            "1 was 00001.jpg .* is 00001.jpg of 1 bytes",
        ),
    ],
)
def test_another_source_is_refused_by_its_first_difference(
    tiny: Path, source: Path, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "in"))
    run(tmp_path / "out", tiny, wanted(folder))
    change(folder)

    with pytest.raises(InvalidArgumentError, match=f"whose source is 40 pictures .*{said}"):
        run(tmp_path / "out", tiny, wanted(folder))
    with (
        pytest.raises(InvalidArgumentError, match="whose source is 40 pictures"),
        closing(InProcess(tiny, device="cpu", workers=1)) as embedder,
    ):
        look(tmp_path / "out", wanted(folder), embedder)
    assert verify(tmp_path / "out", None, sample=0) == []


def test_a_source_that_was_moved_is_the_same(tiny: Path, source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "in"))
    run(tmp_path / "whole", tiny, wanted(folder))
    out = Path(shutil.copytree(tmp_path / "whole", tmp_path / "out"))
    last = max((out / "commits").iterdir())
    last.unlink(), (out / "manifest.json").unlink()
    moved = folder.rename(tmp_path / "moved")

    run(out, tiny, wanted(moved))

    assert verify(out, None, sample=0) == []
    changed = {"listing.parquet"}
    assert {k: v for k, v in hashes(out).items() if k not in changed} == {
        k: v for k, v in hashes(tmp_path / "whole").items() if k not in changed
    }


def test_what_failed_is_retried_as_often_as_it_is_asked_for(tiny: Path, source: Path, tmp_path: Path) -> None:
    folder, out = Path(shutil.copytree(source, tmp_path / "in")), tmp_path / "out"
    run(out, tiny, wanted(folder))
    before = hashes(out / "data")
    retry = wanted(folder, retry_failed=True)

    first = run(out, tiny, retry)  # nothing is mended yet
    assert first.work is not None
    assert (first.work.tally.pictures, first.manifest["errors"]) == (3, 3)
    for number, left in ((17, 2), (3, 1), (39, 0)):
        shutil.copy(folder / "00000.jpg", folder / f"{number:05}.jpg")
        done = run(out, tiny, retry)
        assert done.work is not None
        assert (done.work.tally.pictures, done.manifest["errors"]) == (left + 1, left)
        assert verify(out, None, sample=0) == []
    assert run(out, tiny, retry).work is None
    assert run(out, tiny, wanted(folder)).work is None

    data = vitral_extract.open(out)
    assert data.ids == [f"{number:05}.jpg" for number in range(40)]
    assert data.errors == []
    for number in (3, 17, 39):
        held, good = data[f"{number:05}.jpg"], data["00000.jpg"]
        np.testing.assert_array_equal(held["patch_embeddings.patches"], good["patch_embeddings.patches"])
    assert before.items() <= hashes(out / "data").items()


def test_retrying_needs_a_finished_run(tiny: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="holds no run whose failed pictures could be retried"):
        run(tmp_path / "none", tiny, wanted(source, retry_failed=True))
    assert not (tmp_path / "none").exists()
    run(tmp_path / "out", tiny, wanted(source))
    (tmp_path / "out" / "commits" / "000002.json").unlink()
    with pytest.raises(InvalidArgumentError, match="is not finished: resume it"):
        run(tmp_path / "out", tiny, wanted(source, retry_failed=True))
