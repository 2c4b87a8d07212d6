"""The load generator of Triton's makers finds in vitral the server that it knows.

`make test-perf-analyzer` brings it, and names its folder in VITRAL_PERF_ANALYZER.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kserving
import pytest
from serving import Running, running

MODEL, REQUESTS = "tiny", 400
MODES = {
    "default": [],
    "streaming": ["--streaming"],
    "batches": ["-b", "8"],
    "shared memory": ["--shared-memory", "system"],
    "callers at once": ["-a", "--concurrency-range", "8", "-b", "3"],
    "many on a stream": ["--streaming", "--concurrency-range", "8"],
    "batches in shared memory": ["-b", "8", "--shared-memory", "system"],
}

if "VITRAL_PERF_ANALYZER" not in os.environ:
    pytest.skip(
        "VITRAL_PERF_ANALYZER is not set: `make test-perf-analyzer` brings perf_analyzer",
        allow_module_level=True,
    )
FOLDER = Path(os.environ["VITRAL_PERF_ANALYZER"]).resolve()


@pytest.fixture(scope="module")
def server(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(small_repo, log=tmp_path_factory.mktemp("perf") / "log") as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    with kserving.client(server.address) as opened:
        yield opened


def _figure(told: str, name: str) -> float:
    [figure] = re.findall(rf"^ *{name}: ([0-9.]+)", told, flags=re.MULTILINE)
    return float(figure)


@pytest.mark.parametrize("mode", MODES)
def test_no_request_fails(server: Running, client: Any, mode: str) -> None:
    def counted() -> Any:
        return client.get_inference_statistics(MODEL).model_stats[0].inference_stats

    before = counted()
    options = ["-m", MODEL, "-u", server.address, "-i", "grpc", "--request-count", str(REQUESTS)]
    done = subprocess.run(
        [str(FOLDER / "perf_analyzer"), *options, *MODES[mode]],
        env={**os.environ, "LD_LIBRARY_PATH": str(FOLDER)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = done.stdout + done.stderr

    assert done.returncode == 0, told
    assert _figure(told, "Request count") >= REQUESTS, told
    assert _figure(told, "Throughput") > 0, told
    after = counted()
    assert after.fail.count == 0
    assert after.success.count - before.success.count >= REQUESTS
    refused = [line for line in server.lines("ModelInfer") if line.get("code", "OK") != "OK"]
    assert not refused
    assert not client.get_system_shared_memory_status().regions, "it lets go of its memory"
