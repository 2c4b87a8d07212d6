"""A run as a whole: what comes in comes out once, what fails is told, and another run is refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from extracting import environ, hashes, pictures, run
from PIL import Image

import vitral_engine
import vitral_extract
from vitral.errors import InvalidArgumentError, VitralError
from vitral_export import export
from vitral_export.modules import PatchEmbedding
from vitral_extract import plan, shard
from vitral_extract.embedder import InProcess
from vitral_extract.outlook import Limit, Wanted, look
from vitral_extract.verify import verify


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures, three of them bad. Read only."""
    return pictures(tmp_path_factory.mktemp("source") / "in", 40, bad=(3, 17, 39))


@pytest.fixture(scope="module")
def tiny(small_repo: Path) -> Path:
    return small_repo / "tiny"


def wanted(source: Path, **more: object) -> Wanted:
    return replace(Wanted(sources=(str(source),), batch=4, shard_rows=8), **more)  # type: ignore[arg-type]


def scaled(repo: Path, factor: float) -> Path:
    """A model whose outputs are this much larger."""
    torch.manual_seed(0)
    module = PatchEmbedding(img_size=32, patch_size=8, embed_dim=16)
    with torch.no_grad():
        module.projection.weight.mul_(factor)
    export(module, name="tiny", repo=repo)
    return repo / "tiny"


def largest(out: Path) -> dict[str, float]:
    """The largest value of each picture."""
    return {
        name: float(np.abs(rows["patch_embeddings.patches"]).max()) for name, rows in vitral_extract.open(out)
    }


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
        vitral_engine_of(tiny) as embedder,
    ):
        look(tmp_path / "out", wanted(folder), embedder)
    assert verify(tmp_path / "out", None, sample=0) == []


class vitral_engine_of:  # noqa: N801
    """An embedder that is closed again."""

    def __init__(self, model: Path) -> None:
        self._embedder = InProcess(model, device="cpu", workers=1)

    def __enter__(self) -> InProcess:
        return self._embedder

    def __exit__(self, *_: object) -> None:
        self._embedder.close()


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


@pytest.mark.parametrize(
    ("limit", "most"), [(Limit(number=0), 0), (Limit(number=2), 2), (Limit(share=0.05), 2)]
)
def test_too_many_errors_end_the_run_and_leave_it_resumable(
    tiny: Path, source: Path, tmp_path: Path, limit: Limit, most: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(VitralError, match=f"{most + 1} of 40 pictures failed, {most} may; the last: 000"):
        run(out, tiny, wanted(source, limit=limit), workers=1)
    assert not (out / "manifest.json").exists()
    resumed = run(out, tiny, wanted(source, limit=Limit(number=3)))
    run(tmp_path / "whole", tiny, wanted(source, limit=Limit(share=0.075)))

    assert resumed.manifest["errors"] == 3
    assert hashes(out) == hashes(tmp_path / "whole")
    (out / "commits" / "000003.json").unlink()
    if most:  # what failed before counts as well
        with pytest.raises(VitralError, match=rf"3 of 40 pictures failed, {most} may; the last: 00039\.jpg"):
            run(out, tiny, wanted(source, limit=limit))


def test_a_source_of_which_everything_fails_is_no_data_set(tiny: Path, tmp_path: Path) -> None:
    folder, out = pictures(tmp_path / "in", 10, bad=range(10)), tmp_path / "out"

    for _ in range(2):
        with pytest.raises(VitralError, match=r"all 10 pictures failed, the first, 00000\.jpg: JPEG of"):
            run(out, tiny, wanted(folder))
    assert shard.committed(out)
    assert (out / "errors.parquet").is_file()
    with pytest.raises(VitralError, match="holds no finished data set: 2 of 2 shards are done"):
        vitral_extract.open(out)
    shutil.copy(pictures(tmp_path / "good", 1) / "00000.jpg", folder / "00004.jpg")
    assert run(out, tiny, wanted(folder, retry_failed=True)).manifest["rows"] == 1


def test_what_float16_cannot_hold_is_an_error_and_never_infinite(source: Path, tmp_path: Path) -> None:
    wide = wanted(source, dtype="float32")
    run(tmp_path / "one", scaled(tmp_path / "one-model", 1.0), wide)
    model = scaled(tmp_path / "models", 65504 / float(np.median(list(largest(tmp_path / "one").values()))))
    run(tmp_path / "wide", model, wide)
    too_large = {name for name, most in largest(tmp_path / "wide").items() if most > 65504}
    assert 0 < len(too_large) < 37

    run(tmp_path / "out", model, wanted(source))

    data = vitral_extract.open(tmp_path / "out")
    errors = {error["id"]: error for error in data.errors if error["reason"] == "overflow"}
    assert set(errors) == too_large
    assert {error["stage"] for error in errors.values()} == {"cast"}
    assert all("over 65504.0, the largest float16: take float32" in e["message"] for e in errors.values())
    assert verify(tmp_path / "out", None, sample=0) == []


def test_a_folder_with_something_else_in_it_is_not_touched(tiny: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "letter.txt").write_text("dear")
    (tmp_path / ".aside-mine").write_text("mine")

    with pytest.raises(InvalidArgumentError, match="is not empty and holds no run: a is in it"):
        run(tmp_path, tiny, wanted(source))

    assert sorted(path.name for path in tmp_path.iterdir()) == [".aside-mine", "a", "letter.txt"]


def test_too_little_disk_is_refused_at_the_start(
    tiny: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=20_000))

    said = r"40 pictures need about \d{5} bytes, .* has 20000 free"
    with pytest.raises(InvalidArgumentError, match=said):
        run(tmp_path / "out", tiny, wanted(source))
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_shard_that_memory_might_not_hold_is_refused(tiny: Path) -> None:
    with vitral_engine_of(tiny) as embedder:
        columns = plan_columns(embedder)
        with pytest.raises(InvalidArgumentError, match="4000000 rows make a shard of 2048000000 bytes"):
            plan.demand_size(columns, "float16", 4_000_000)


def plan_columns(embedder: InProcess) -> tuple[object, ...]:
    from vitral_extract import layout

    return layout.columns(embedder.spec, (), ("patches",))


FULL = """
import os, sys
from pathlib import Path
from vitral.errors import VitralError
from vitral_extract.embedder import InProcess
from vitral_extract.outlook import Wanted
from vitral_extract.run import extract
from extracting import Silent, hashes, run

model, source, disk, whole = map(Path, sys.argv[1:5])
wanted = Wanted(sources=(str(source),), batch=4, shard_rows=8, format=sys.argv[5])

class Filling(InProcess):
    calls = 0

    def embed(self, *args):
        self.calls += 1
        if self.calls == 6:
            with open(disk / "ballast", "wb", 0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass
        return super().embed(*args)

try:
    extract(disk / "out", wanted, Filling(model, device="cpu", workers=1), Silent())
except VitralError as error:
    print(error)
else:
    sys.exit("the disk was not full")
(disk / "ballast").unlink()
assert not (disk / "out" / "manifest.json").exists()
run(disk / "out", model, wanted)
run(whole, model, wanted)
assert hashes(disk / "out") == hashes(whole)
"""


@pytest.mark.parametrize("format_", ["safetensors", "parquet", "npy"])
def test_a_disk_that_fills_up_leaves_a_run_that_goes_on(
    tiny: Path, source: Path, tmp_path: Path, format_: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=2m none '{disk}'"
    line = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*line, mount], capture_output=True).returncode:
        pytest.skip("no file system of its own can be mounted here: unshare or tmpfs is missing")
    script = tmp_path / "full.py"
    script.write_text(FULL)
    where = environ(Path(__file__).parent)
    arguments = f"'{sys.executable}' '{script}' '{tiny}' '{source}' '{disk}' '{tmp_path / 'whole'}' {format_}"
    done = subprocess.run([*line, f"{mount} && {arguments}"], env=where, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    said = f"no space is left for {disk}/out \\(No space left on device\\): [12] shards are finished and stay"
    assert re.match(said, done.stdout)
    assert len(done.stdout.splitlines()) == 1


PEAK = """
import resource, sys
from pathlib import Path
from vitral_extract.outlook import Wanted
from extracting import run

out, model, source = map(Path, sys.argv[1:])
done = run(out, model, Wanted(sources=(str(source),)))
print(done.manifest["errors"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_pictures_that_failed_are_not_kept_in_memory(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (2000, 1500)).save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-1000])
    for copy in range(100):  # 9 MB of pixels each
        os.link(folder / "cut.jpg", folder / f"{copy}.jpg")
    line = [sys.executable, "-c", PEAK, str(tmp_path / "out"), str(tiny), str(folder)]
    done = subprocess.run(
        line, env=environ(Path(__file__).parent), capture_output=True, text=True, check=True
    )

    errors, peak = map(int, done.stdout.split())
    assert errors == 101
    assert peak < 500  # MiB
