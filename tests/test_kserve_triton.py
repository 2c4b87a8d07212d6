"""vitral answers as Triton does: both serve one repository, both are asked the same.

`make test-triton` sets VITRAL_TRITON and brings Triton: its core, whose words these are, and a backend.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import triton_memory
import triton_questions
from asking import Answer, Asker, Step, asker, differences
from benchmarks.serving.peers import tritonserver
from conftest import PRESETS
from kserving import message, noise
from serving import Running
from test_kserve_errors import CASES
from triton_memory import INPUT, given, register, status, taken
from triton_questions import infer, parameter, shaped
from tritonclient.grpc import service_pb2 as pb

if "VITRAL_TRITON" not in os.environ:
    _TOLD = "VITRAL_TRITON is not set: `make test-triton` sets it, and asks Triton"
    pytest.skip(tritonserver.missing() or _TOLD, allow_module_level=True)

REFUSALS = {name: [infer(change, rows=2)] for name, (change, _, _) in CASES.items()}
"""Requests whose refusals the default tests hold to words that are Triton's."""


def _class(kind: str, value: Any) -> Step:
    return infer(parameter("classification", kind, value, of="outputs"), outputs=["embeddings"])


OTHER_WORDS: dict[str, str] = {
    "refusals two inputs": "Triton's list of missing inputs has a bracket too few",
    "refusals no rows": "vitral says that there is no row",
    "refusals less than none": "as above",
    "memory more than all": "vitral says which bytes",
    "memory a page more": "as above",
    "memory an offset too far": "as above",
    "memory an offset at the end": "as above",
    "memory an offset far away": "as above",
    "memory an enormous size": "as above",
    "memory zero size": "as above",
    "memory no such key": "vitral says what the system said",
}
"""Situations in which codes are equal, and words are not; why."""

OTHER_CODES: dict[str, tuple[list[Step], list[str], list[str]]] = {
    "classification": ([_class("int64_param", 2)], ["OK"], ["UNIMPLEMENTED"]),
    "a timeout that config.pbtxt does not allow": (
        [infer(parameter("timeout", "int64_param", 1))],
        ["OK"],
        ["UNAVAILABLE"],
    ),
    "load": ([("RepositoryModelLoad", pb.RepositoryModelLoadRequest())], ["UNAVAILABLE"], ["UNIMPLEMENTED"]),
    "unload": (
        [("RepositoryModelUnload", pb.RepositoryModelUnloadRequest())],
        ["UNAVAILABLE"],
        ["UNIMPLEMENTED"],
    ),
    "CUDA memory": (
        [("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest())],
        ["OK"],
        ["UNIMPLEMENTED"],
    ),
    "trace": ([("TraceSetting", pb.TraceSettingRequest())], ["OK"], ["UNIMPLEMENTED"]),
    "log": ([("LogSettings", pb.LogSettingsRequest())], ["OK"], ["UNIMPLEMENTED"]),
    "no rows, and the bytes of one": ([infer(shaped(0, 3, 32, 32))], ["INTERNAL"], ["INVALID_ARGUMENT"]),
    "a second region of a key": (
        [register(), register("s"), status("s")],
        ["OK", "INTERNAL", "NOT_FOUND"],
        ["OK", "OK", "OK"],
    ),
    "a region that begins within a page": (
        [register("s", offset=28, size=INPUT), taken("s")],
        ["INVALID_ARGUMENT", "NOT_FOUND"],
        ["OK", "OK"],
    ),
    "an input over the end of a region that has an offset": (
        [register("s", offset=4096, size=20000), taken("s", offset=8000)],
        ["OK", "OK"],
        ["OK", "INVALID_ARGUMENT"],
    ),
    "an output of less than no bytes": (
        [register(), given(size=-1)],
        ["OK", "OK"],
        ["OK", "INVALID_ARGUMENT"],
    ),
}
"""What vitral means to answer otherwise: what is asked, Triton's codes, vitral's."""


@dataclass(frozen=True)
class Servers:
    """One repository's."""

    triton: Asker
    vitral: Asker

    def compare(self, name: str, steps: list[Step], *, memory: bool = False) -> None:
        """Asks both; fails where their answers differ."""
        got, want = (
            triton_memory.ask(one, steps) if memory else one.ask(steps) for one in (self.vitral, self.triton)
        )
        if name in OTHER_WORDS:
            assert _codes(got) == _codes(want), (got, want)
            assert [one.words for one in got] != [one.words for one in want], f"{name} is the same again"
        else:
            found = differences(got, want)
            assert not found, "\n".join(found)


def _codes(answers: Sequence[Answer]) -> list[str]:
    return [answer.code for answer in answers]


def _files(repo: Path) -> list[tuple[str, int]]:
    return [(str(path), path.stat().st_mtime_ns) for path in sorted(repo.rglob("*"))]


@pytest.fixture(scope="module")
def servers(preset_repo: Path, kserve_server: Running) -> Iterator[Servers]:
    if missing := tritonserver.missing():
        pytest.fail(missing)
    before = _files(preset_repo)
    with (
        tritonserver.running(preset_repo) as other,
        asker(other.address) as triton,
        asker(kserve_server.address) as vitral,
    ):
        yield Servers(triton, vitral)
    assert _files(preset_repo) == before


@pytest.mark.parametrize("model", PRESETS)
def test_models_are_described_and_run_alike(servers: Servers, model: str) -> None:
    described = [("ModelMetadata", pb.ModelMetadataRequest(name=model))]
    completed = [("ModelConfig", pb.ModelConfigRequest(name=model))]
    servers.compare("", [*described, *completed, triton_questions.run(model)])


@pytest.mark.parametrize("name", triton_questions.QUESTIONS)
def test_questions_are_answered_alike(servers: Servers, name: str) -> None:
    servers.compare(name, triton_questions.QUESTIONS[name])


@pytest.mark.parametrize("name", REFUSALS.keys() - OTHER_CODES.keys())
def test_requests_are_refused_alike(servers: Servers, name: str) -> None:
    servers.compare(f"refusals {name}", REFUSALS[name])


@pytest.mark.parametrize("name", triton_memory.QUESTIONS)
def test_shared_memory_is_used_alike(servers: Servers, name: str) -> None:
    servers.compare(f"memory {name}", triton_memory.QUESTIONS[name], memory=True)


def test_statistics_count_alike(servers: Servers) -> None:
    """One row a request: how the rows of one are shared out to runs is a server's own."""
    model = "manual-patch-embedding"
    bad = message(noise(1), model_name=model)
    bad.raw_input_contents[0] = b"abcd"
    run, refused = ("ModelInfer", message(noise(1), model_name=model)), ("ModelInfer", bad)
    count = ("ModelStatistics", pb.ModelStatisticsRequest(name=model))
    servers.compare("", [count, run, run, refused, run])
    until = time.monotonic() + 5
    while servers.triton.ask([count]) != servers.vitral.ask([count]) and time.monotonic() < until:
        time.sleep(0.02)  # Triton counts behind its answer
    servers.compare("", [count])


@pytest.mark.parametrize("name", OTHER_CODES)
def test_what_vitral_answers_otherwise(servers: Servers, name: str) -> None:
    steps, triton, vitral = OTHER_CODES[name]
    for one, want in ((servers.triton, triton), (servers.vitral, vitral)):
        got = triton_memory.ask(one, steps)[: len(steps)]
        assert _codes(got) == want, list(map(str, got))
