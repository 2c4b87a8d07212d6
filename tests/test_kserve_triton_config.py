"""What owners write into config.pbtxt, and versions beside each other, as Triton reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import triton_servers
from asking import Step, assert_alike
from kserving import message, noise
from serving import running
from triton_servers import Servers
from tritonclient.grpc import service_pb2 as pb

triton_servers.need()

BATCHING = "dynamic_batching {\n}\n"
CHANGES = {
    "as_it_is": ("", ""),
    "five": ("max_batch_size: 32", "max_batch_size: 5"),
    "single": ("max_batch_size: 32", "max_batch_size: 1"),
    "no_batching": (BATCHING, ""),
    "preferred": (
        BATCHING,
        "dynamic_batching { preferred_batch_size: [2, 4] max_queue_delay_microseconds: 100 }",
    ),
    "queue": (BATCHING, "dynamic_batching { default_queue_policy { max_queue_size: 7 } }"),
    "timeouts": (BATCHING, "dynamic_batching { default_queue_policy { allow_timeout_override: true } }"),
    "priorities": (BATCHING, "dynamic_batching { priority_levels: 2 default_priority_level: 1 }"),
    "ordered": (BATCHING, "dynamic_batching { preserve_ordering: true }"),
    "platform": ('backend: "onnxruntime"', 'platform: "onnxruntime_onnx"'),
    "platform_too": ("", 'platform: "onnxruntime_onnx"'),
    "no_name": ('name: "no_name"', ""),
    "no_file": ('default_model_filename: "model.onnx"', ""),
    "parameters": ("", 'parameters { key: "a" value { string_value: "b" } }'),
    "pinned": ("", "optimization { input_pinned_memory { enable: false } graph { level: 1 } }"),
    "cached": ("", "response_cache { enable: false }"),
    "one_version": ("", "version_policy { specific { versions: [1] } }"),
    "versions": ("", ""),
    "all_versions": ("", "version_policy { all { } }"),
    "two_versions": ("", "version_policy { latest { num_versions: 2 } }"),
    "named_versions": ("", "version_policy { specific { versions: [1, 2, 7] } }"),
    "torn": ("", ""),
}
"""Model to what of its config.pbtxt is replaced; with nothing to replace it is added."""


@pytest.fixture(scope="module")
def repo(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("triton") / "models"
    for name, (old, new) in CHANGES.items():
        shutil.copytree(small_repo / "tiny", made / name)
        manifest, config = made / name / "1" / "manifest.json", made / name / "config.pbtxt"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"name": name}))
        text = config.read_text().replace('"tiny"', f'"{name}"')
        assert old in text
        text = text.replace(old, new) if old else f"{text}{new}\n"
        config.write_text(f"{text}instance_group {{ count: 1 kind: KIND_CPU }}\n")
    for name in (name for name in CHANGES if name.endswith("versions")):
        for version in ("2", "10"):
            shutil.copytree(made / name / "1", made / name / version)
    (made / "torn" / "1" / "model.onnx").write_bytes(b"torn")
    return made


@pytest.fixture(scope="module")
def servers(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    log = tmp_path_factory.mktemp("vitral") / "log"
    with (
        running(repo, log=log) as vitral,
        triton_servers.beside(vitral, repo, "--exit-on-error=false", "--strict-readiness=false") as both,
    ):
        yield both


def _asked(model: str, version: str) -> list[Step]:
    asked = [getattr(pb, f"{name}Request")(name=model, version=version) for name in _METHODS]
    run = message(noise(2), model_name=model, model_version=version)
    return [*zip(_METHODS, asked, strict=True), ("ModelInfer", run)]


_METHODS = ("ModelReady", "ModelMetadata", "ModelConfig")


@pytest.mark.parametrize("model", [name for name in CHANGES if name != "torn"])
@pytest.mark.parametrize("version", ["", "1", "2", "10"])
def test_models_are_read_alike(servers: Servers, model: str, version: str) -> None:
    assert_alike(*(one.ask(_asked(model, version)) for one in servers))


def test_a_model_that_is_torn_is_there_and_does_not_serve(servers: Servers) -> None:
    count = ("ModelStatistics", pb.ModelStatisticsRequest(name="torn"))
    assert_alike(*(one.ask([*_asked("torn", ""), count]) for one in servers))
    got, want = (one.ask(_asked("torn", "1")) for one in servers)
    assert [one.code for one in got] == [one.code for one in want] == ["OK"] + ["UNAVAILABLE"] * 3
    for one, other in zip(got, want, strict=True):
        assert one.words.startswith(other.words), "the reason stands behind"


def test_the_models_that_are_ready_are_listed_alike(servers: Servers) -> None:
    assert_alike(*(one.ask([("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))]) for one in servers))
