"""Repositories that the tests share, made once by the real exporter."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sized_module
import slow_paths
from serving import Running, running

from vitral_export.cli import main

PRESETS = (
    "patch-embedding",
    "manual-patch-embedding",
    "vit-embedding",
    "patch-embedding-2d-position",
    "position-embedding-2d",
)


def pytest_configure() -> None:
    """Ctrl-C reaches the processes that tests start, also where a shell runs them behind its back.

    Such a shell has Ctrl-C ignored, and what is ignored stays so in every process below.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if name := os.environ.get(slow_paths.VARIABLE):
        slow_paths.PATHS[name]()


def _once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """A repository that is built by the first of the processes which run the tests, and read by all."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            build(folder / "models")
            (folder / "built").touch()
    return folder / "models"


def _presets(repo: Path, **names: str) -> None:
    sizes = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")
    for name, source in names.items():
        assert main(["build", source, "--name", name, "--repo", str(repo), *sizes]) == 0


@pytest.fixture(scope="session")
def small_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the model `tiny`: image 32, patch 8, width 16, seed 0. Read only."""
    return _once(tmp_path_factory, "small", lambda repo: _presets(repo, tiny="patch-embedding"))


@pytest.fixture(scope="session")
def preset_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with every preset by its own name: image 32, patch 8, width 16, seed 0. Read only."""
    names = {name: name for name in PRESETS}
    return _once(tmp_path_factory, "presets", lambda repo: _presets(repo, **names))


@pytest.fixture(scope="session")
def base_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with ViT-B/16's patch embedding, seed 0, named `patch-embedding`. Read only."""
    line = ["build", "patch-embedding", "--name", "patch-embedding", "--repo"]

    def build(repo: Path) -> None:
        assert main([*line, str(repo)]) == 0

    return _once(tmp_path_factory, "base", build)


@pytest.fixture
def refusal(small_repo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Builds into a repository that is there, and gives the one line that is said of the failure."""
    repo = tmp_path / "repo" / "models"
    shutil.copytree(small_repo, repo)

    def there() -> list[tuple[str, int]]:
        paths = sorted(repo.parent.rglob("*"))
        return [(str(path), path.stat().st_mtime_ns * path.is_file()) for path in paths]

    def said(source: object, *options: str) -> str:
        before = there()
        capfd.readouterr()
        assert (
            main(["build", str(source), "--name", "refused", "--repo", str(repo), "--quiet", *options]) == 1
        )
        found = capfd.readouterr()
        assert before == there()
        assert found.out == ""
        assert found.err.count("\n") == 1, found.err
        assert found.err.startswith("vitral-export: ")
        return found.err

    return said


@pytest.fixture(scope="session")
def kserve_server(preset_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server on every preset, for callers of the KServe protocol."""
    with running(preset_repo, log=tmp_path_factory.mktemp("kserve") / "server.log") as server:
        yield server


@pytest.fixture(scope="session")
def sized_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the model `sized`, of any size from 8 x 8 to 64 x 64, natively 32 x 32. Read only."""
    return _once(tmp_path_factory, "sized", sized_module.build)
