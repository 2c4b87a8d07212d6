from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vitral.errors import InvalidArgumentError, ProofError
from vitral_engine.artifact import open_artifact
from vitral_export import verify
from vitral_export.build import Exported, build
from vitral_export.lock import hold
from vitral_export.repository import check_name, staging
from vitral_export.sources import Options, load

SIZES = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")


def export(repo: Path, *, seed: int = 0, embed_dim: int = 16, name: str = "tiny") -> Exported:
    options = Options(seed=seed, img_size=32, patch_size=8, embed_dim=embed_dim)
    return build(load("patch-embedding", options), name=name, repo=repo)


def start(repo: Path, *, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vitral_export", "build", "patch-embedding", "--name", "tiny"]
    line = [*command, "--repo", str(repo), "--seed", str(seed), *SIZES]
    return subprocess.Popen(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def refused(*_: object) -> None:
    raise ProofError("no")


def visible(repo: Path) -> list[str]:
    return sorted(str(path.relative_to(repo)) for path in repo.rglob("*") if path.is_dir())


@pytest.fixture
def repo(small_repo: Path, tmp_path: Path) -> Path:
    """A copy of the small repository, to change."""
    return Path(shutil.copytree(small_repo, tmp_path / "models"))


def test_the_same_identity_changes_nothing_and_says_so(repo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in repo.rglob("*") if path.is_file()}
    done = export(repo)
    assert not done.changed
    assert done.path == (repo / "tiny" / "1").resolve()
    assert before == {path: path.stat().st_mtime_ns for path in repo.rglob("*") if path.is_file()}


def test_other_weights_are_the_next_version_and_the_config_stays(repo: Path) -> None:
    config = repo / "tiny" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 32", "max_batch_size: 5"))
    done = export(repo, seed=1)
    assert done.path.name == "2"
    assert "max_batch_size: 5" in config.read_text()
    assert visible(repo) == ["tiny", "tiny/1", "tiny/2"]
    first, second = (open_artifact(repo / "tiny" / version).spec for version in "12")
    assert first.fingerprint != second.fingerprint


def test_versions_count_on_after_the_highest(repo: Path) -> None:
    (repo / "tiny" / "1").rename(repo / "tiny" / "9")
    assert export(repo, seed=1).path.name == "10"


@pytest.mark.parametrize("damage", ["weights.bin", "manifest.json"])
def test_a_damaged_newest_version_is_repaired_by_an_older_identity(repo: Path, damage: str) -> None:
    assert export(repo, seed=1).path.name == "2"
    (repo / "tiny" / "2" / damage).write_bytes(b"damaged")
    done = export(repo)
    assert (done.path.name, done.changed) == ("3", True)
    assert (
        open_artifact(repo / "tiny").spec.fingerprint == open_artifact(repo / "tiny" / "1").spec.fingerprint
    )


def test_an_older_identity_becomes_the_newest_again(repo: Path) -> None:
    export(repo, seed=1)
    assert export(repo).path.name == "3"
    assert not export(repo).changed


def test_a_changed_signature_is_refused(repo: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="a new signature is a new NAME") as caught:
        export(repo, embed_dim=24)
    assert "batch x 16 x 16" in str(caught.value)
    assert "batch x 16 x 24" in str(caught.value)
    assert visible(repo) == ["tiny", "tiny/1"]


def test_a_signature_is_checked_against_the_config_when_no_version_is_left(repo: Path) -> None:
    shutil.rmtree(repo / "tiny" / "1")
    with pytest.raises(InvalidArgumentError, match="a new signature is a new NAME"):
        export(repo, embed_dim=24)
    assert export(repo).path.name == "1"


def test_half_written_folders_are_passed_over(repo: Path) -> None:
    (repo / "tiny" / "1" / "weights.bin").unlink()
    (repo / "tiny" / "config.pbtxt").unlink()
    (repo / "tiny" / "2").mkdir()
    done = export(repo)
    assert (done.path.name, done.changed) == ("3", True)
    assert open_artifact(repo / "tiny").version == "3"
    assert (repo / "tiny" / "config.pbtxt").exists()


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "-x", "a b", "ä", "a\n"])
def test_impossible_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not possible"):
        check_name(name)
    with pytest.raises(InvalidArgumentError, match="is not possible"), staging(tmp_path / "models", name):
        pass
    assert not list(tmp_path.iterdir())


def test_a_repository_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("no folder")
    with pytest.raises(InvalidArgumentError, match="is not a folder"):
        export(tmp_path / "models")


def test_another_file_system_is_refused(tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    if not os.access(shared_memory, os.W_OK) or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system to write to")
    repo = tmp_path / "models"
    repo.mkdir()
    elsewhere = shared_memory / f"vitral-test-{os.getpid()}"
    elsewhere.mkdir()
    try:
        (tmp_path / ".models.staging").symlink_to(elsewhere)
        with pytest.raises(InvalidArgumentError, match="not on the file system of"):
            export(repo)
    finally:
        shutil.rmtree(elsewhere)


def test_left_overs_of_the_dead_are_removed_and_others_kept(repo: Path) -> None:
    aside = repo.parent / ".models.staging"
    dead = [aside / "tiny.999999999" / "1", repo / "tiny" / ".staging-999999999"]
    alive = [aside / "tiny.b.1" / "1", aside / "other.2" / "1"]
    for folder in (*dead, *alive):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"half")
    export(repo)
    assert not any(folder.exists() for folder in dead)
    assert all(folder.exists() for folder in alive)


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "prove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "models")
    assert not list(tmp_path.iterdir())


def test_a_refused_export_removes_what_it_made_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(verify, "prove", refused)
    for repo in (tmp_path / "new" / "deep" / "models", tmp_path / "here"):
        with pytest.raises(ProofError, match="no"):
            export(repo)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_lock_that_its_holder_removed_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "aside" / "m.lock"
    inside: list[int] = []

    def work(_: int) -> int:
        with hold(path):
            inside.append(1)
            most = len(inside)
            time.sleep(0.001)
            inside.pop()
            return most

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(200))) == {1}
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_repository_as_it_was(repo: Path) -> None:
    before = visible(repo)
    command = ["build", "patch-embedding", "--name", "tiny", "--repo", str(repo), "--seed", "1", *SIZES]
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # the weights fit, the goldens do not
from vitral_export.cli import main
sys.exit(main({command!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("vitral-export: golden.safetensors cannot be written")
    assert done.stderr.count("\n") == 1
    assert visible(repo) == before


def test_killed_midway_shows_nothing_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    repo, aside = tmp_path / "models", tmp_path / ".models.staging"
    process = start(repo, seed=0)
    limit = time.monotonic() + 60
    while not list(aside.glob("tiny.*/tiny/1/weights.bin")):  # graphs written, proof not yet
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert not repo.exists()
    assert export(repo).path.name == "1"
    assert not aside.exists()


def test_two_at_once_wait_for_each_other(tmp_path: Path) -> None:
    repo = tmp_path / "models"
    running = [start(repo, seed=seed) for seed in (0, 1)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert visible(repo) == ["tiny", "tiny/1", "tiny/2"]
    notes = {open_artifact(repo / "tiny" / version).spec.source.weights_note for version in "12"}
    assert notes == {"random weights, seed 0", "random weights, seed 1"}
