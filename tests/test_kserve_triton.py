"""vitral answers as Triton does: both serve one repository, both are asked the same.

`make test-triton` sets VITRAL_TRITON and brings Triton: its core, whose words these are, and a backend.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import triton_memory
import triton_questions
import triton_servers
from asking import Step, assert_alike, codes
from conftest import PRESETS
from kserving import message, noise
from serving import Running
from test_kserve_errors import CASES
from triton_memory import INPUT, given, register, taken
from triton_questions import infer, parameter, shaped
from triton_servers import Servers
from tritonclient.grpc import service_pb2 as pb

triton_servers.need()

REFUSALS = {name: infer(change, rows=2) for name, (change, _, _) in CASES.items() if name != "classification"}
"""Requests whose refusals the default tests hold to words that are Triton's."""


CLASSES = infer(parameter("classification", "int64_param", 2, of="outputs"), outputs=["embeddings"])


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

NOT_SERVED = {
    "RepositoryModelLoad": "UNAVAILABLE",
    "RepositoryModelUnload": "UNAVAILABLE",
    "CudaSharedMemoryRegister": "INVALID_ARGUMENT",
    "TraceSetting": "OK",
    "LogSettings": "OK",
}
"""Methods that vitral refuses by name, and what Triton says to them."""

OTHER_CODES: dict[str, tuple[list[Step], list[str], list[str]]] = {
    name: ([(name, getattr(pb, f"{name}Request")())], [code], ["UNIMPLEMENTED"])
    for name, code in NOT_SERVED.items()
} | {
    "classification": ([CLASSES], ["OK"], ["UNIMPLEMENTED"]),
    "a timeout that config.pbtxt does not allow": (
        [infer(parameter("timeout", "int64_param", 1))],
        ["OK"],
        ["UNAVAILABLE"],
    ),
    "no rows, and the bytes of one": ([infer(shaped(0, 3, 32, 32))], ["INTERNAL"], ["INVALID_ARGUMENT"]),
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


@pytest.fixture(scope="module")
def servers(preset_repo: Path, kserve_server: Running) -> Iterator[Servers]:
    with triton_servers.beside(kserve_server, preset_repo) as both:
        yield both


def _compare(servers: Servers, name: str, steps: list[Step], *, memory: bool = False) -> None:
    """Asks both; fails where their answers differ."""
    got, want = (triton_memory.ask(one, steps) if memory else one.ask(steps) for one in servers)
    if name in OTHER_WORDS:
        assert codes(got) == codes(want), (got, want)
        assert [one.words for one in got] != [one.words for one in want], f"{name} is the same again"
    else:
        assert_alike(got, want)


@pytest.mark.parametrize("model", PRESETS)
def test_models_are_described_and_run_alike(servers: Servers, model: str) -> None:
    described = [("ModelMetadata", pb.ModelMetadataRequest(name=model))]
    completed = [("ModelConfig", pb.ModelConfigRequest(name=model))]
    _compare(servers, "", [*described, *completed, triton_questions.run(model)])


@pytest.mark.parametrize("name", triton_questions.QUESTIONS)
def test_questions_are_answered_alike(servers: Servers, name: str) -> None:
    _compare(servers, name, triton_questions.QUESTIONS[name])


@pytest.mark.parametrize("name", REFUSALS)
def test_requests_are_refused_alike(servers: Servers, name: str) -> None:
    _compare(servers, f"refusals {name}", [REFUSALS[name]])


@pytest.mark.parametrize("name", triton_memory.QUESTIONS)
def test_shared_memory_is_used_alike(servers: Servers, name: str) -> None:
    _compare(servers, f"memory {name}", triton_memory.QUESTIONS[name], memory=True)


def test_statistics_count_alike(servers: Servers) -> None:
    """One row a request: how the rows of one are shared out to runs is a server's own."""
    model = "manual-patch-embedding"
    bad = message(noise(1), model_name=model)
    bad.raw_input_contents[0] = b"abcd"
    run, refused = ("ModelInfer", message(noise(1), model_name=model)), ("ModelInfer", bad)
    count = ("ModelStatistics", pb.ModelStatisticsRequest(name=model))
    _compare(servers, "", [count, run, run, refused, run])
    until = time.monotonic() + 5
    while servers.triton.ask([count]) != servers.vitral.ask([count]) and time.monotonic() < until:
        time.sleep(0.02)  # Triton counts behind its answer
    _compare(servers, "", [count])


@pytest.mark.parametrize("name", OTHER_CODES)
def test_what_vitral_answers_otherwise(servers: Servers, name: str) -> None:
    steps, triton, vitral = OTHER_CODES[name]
    for one, want in ((servers.triton, triton), (servers.vitral, vitral)):
        got = triton_memory.ask(one, steps)[: len(steps)]
        assert codes(got) == want, list(map(str, got))
