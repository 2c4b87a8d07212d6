"""What ends a run, or keeps it from beginning: errors, values, memory and disk."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from extracting import environ, pictures, run

import vitral_extract
from vitral.errors import InvalidArgumentError
from vitral_export import export
from vitral_export.modules import PatchEmbedding
from vitral_extract import plan
from vitral_extract.embedder import InProcess
from vitral_extract.outlook import Wanted
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
    with closing(InProcess(tiny, device="cpu", workers=1)) as embedder:
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
