"""Where a run ends early or leaves something out: errors, float16, memory, the disk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from extracting import environ, hashes, pictures, run, scaled, wanted
from PIL import Image

import vitral_extract
from vitral.errors import InvalidArgumentError, VitralError
from vitral_extract import layout, plan, shard
from vitral_extract.embedder import InProcess
from vitral_extract.outlook import Limit
from vitral_extract.verify import verify


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures, three of them bad. Read only."""
    return pictures(tmp_path_factory.mktemp("source") / "in", 40, bad=(3, 17, 39))


@pytest.fixture(scope="module")
def tiny(small_repo: Path) -> Path:
    return small_repo / "tiny"


def largest(out: Path) -> dict[str, float]:
    """The largest value of each picture."""
    return {
        name: float(np.abs(rows["patch_embeddings.patches"]).max()) for name, rows in vitral_extract.open(out)
    }


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
    with closing(InProcess(tiny, device="cpu", workers=1)) as embedder:
        columns = layout.columns(embedder.spec, (), ("patches",))
        with pytest.raises(InvalidArgumentError, match="4000000 rows make a shard of 2048000000 bytes"):
            plan.demand_size(columns, "float16", 4_000_000)


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


PEAK = r"""
import re, sys
from pathlib import Path
from vitral_extract.outlook import Wanted
from extracting import run

out, model, source = map(Path, sys.argv[1:])
done = run(out, model, Wanted(sources=(str(source),)))
peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
print(done.manifest["errors"], peak // 1024)
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
