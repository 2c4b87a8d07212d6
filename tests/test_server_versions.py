"""Which versions of a model are served: the newest, or those that config.pbtxt asks for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from serving import running

from vitral.errors import ArtifactError
from vitral_engine import device
from vitral_server import registry
from vitral_server.config import ServerConfig

Served = list[tuple[str, bool]]


@pytest.fixture
def served(small_repo: Path, tmp_path: Path) -> Callable[..., Served]:
    """Loads versions 1, 2, 3 and 10 of one model under a policy; each by number, and whether it serves."""
    folder = tmp_path / "models" / "tiny"
    shutil.copytree(small_repo / "tiny", folder)
    for version in ("2", "3", "10"):
        shutil.copytree(folder / "1", folder / version)

    def load(policy: str, *, torn: str = "", named: bool = False) -> Served:
        with (folder / "config.pbtxt").open("a") as file:
            file.write(policy)
        if torn:
            (folder / torn / "model.onnx").write_bytes(b"torn")
        config = ServerConfig(repo=folder.parent, models=("tiny",) if named else ())
        found = registry.load(config, device.place("cpu"))
        try:
            newest = max((int(one.version) for one in found.models if not one.fault), default=0)
            if newest:
                assert found.find("tiny", "").version == str(newest), "no version asked for: the newest"
            return [(one.version, not one.fault) for one in found.models]
        finally:
            found.close()

    return load


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", ["10"]),
        ("version_policy { latest { num_versions: 1 } }", ["10"]),
        ("version_policy { latest { num_versions: 2 } }", ["3", "10"]),
        ("version_policy { latest { num_versions: 9 } }", ["1", "2", "3", "10"]),
        ("version_policy { all { } }", ["1", "2", "3", "10"]),
        ("version_policy { specific { versions: [3, 1] } }", ["1", "3"]),
        ("version_policy { specific { versions: [1, 7] } }", ["1"]),
    ],
)
def test_the_policy_says_which(served: Callable[..., Served], policy: str, versions: list[str]) -> None:
    assert served(policy) == [(version, True) for version in versions]


def test_an_older_version_stands_in_for_a_torn_one(served: Callable[..., Served]) -> None:
    found = served("version_policy { latest { num_versions: 2 } }", torn="10")
    assert found == [("2", True), ("3", True), ("10", False)]


def test_no_other_version_stands_in_for_one_that_is_named(served: Callable[..., Served]) -> None:
    assert served("version_policy { specific { versions: [2] } }", torn="2") == [("2", False)]


def test_versions_that_are_not_there_are_told(served: Callable[..., Served]) -> None:
    missing = "version_policy { specific { versions: [7] } }"
    assert served(missing) == [("10", False)]
    with pytest.raises(ArtifactError, match=r"names version 7, there are 1, 2, 3, 10"):
        served("", named=True)


def test_a_named_model_is_served_whole_or_not_at_all(served: Callable[..., Served]) -> None:
    with pytest.raises(ArtifactError, match="model tiny version 3"):
        served("version_policy { all { } }", torn="3", named=True)


def test_metadata_is_of_all_versions_or_of_the_one_that_is_named(small_repo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "tiny"
    shutil.copytree(small_repo / "tiny", folder)
    shutil.copytree(folder / "1", folder / "2")
    with (folder / "config.pbtxt").open("a") as file:
        file.write("version_policy { all { } }")
    with running(folder.parent, log=tmp_path / "log") as server:
        client = triton.InferenceServerClient(server.address)
        told = {name: list(client.get_model_metadata("tiny", name).versions) for name in ("", "1", "2")}
        client.close()
    assert told == {"": ["1", "2"], "1": ["1"], "2": ["2"]}
