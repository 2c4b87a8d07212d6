"""The metrics page counts what callers saw, of one process and of several."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import photographs
import pytest
from scraping import scrape, value
from serving import Running, command, running

from vitral.errors import ImageError, ModelNotFoundError
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from vitral_client import Client
from vitral_server.config import ServerConfig
from vitral_server.share import share

ROCKET = photographs.ROCKET.read_bytes()
STAGES = ("decode", "preprocess", "queue", "run", "encode")
OWN = [("grpc.use_local_subchannel_pool", 1)]
"""A connection of its own: the kernel gives each to one of the workers."""

REQUEST = pb.EmbedRequest(items=[pb.Item(encoded=ROCKET)])


def _until(true: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so after {seconds} s"
        time.sleep(0.02)


def test_the_page_counts_what_callers_saw(small_repo: Path, tmp_path: Path) -> None:
    with running(small_repo, "--metrics-port", "0", "--max-items", "3", log=tmp_path / "log") as server:
        page = server.told["metrics"]
        before = scrape(page)
        assert value(before, "vitral_request_seconds_count", model="tiny") == 0
        assert [s.value for f in before for s in f.samples if s.name == "vitral_images_total"] == [0]
        with Client(server.address) as client:
            replies = [client.embed([ROCKET] * 2, model="tiny")[0].timings for _ in range(3)]
            _, bad = client.embed([ROCKET, b"no picture"], model="tiny", errors="return")
            with pytest.raises(ModelNotFoundError):
                client.embed(ROCKET, model="absent")
            with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
                EmbeddingServiceStub(channel).Embed(pb.EmbedRequest(items=[*REQUEST.items] * 4), timeout=10)
        assert isinstance(bad, ImageError)
        found = scrape(page)

        def count(name: str, **labels: str) -> float:
            return value(found, name, **labels)

        assert count("vitral_requests_total", method="embed", model="tiny", code="OK") == 4
        assert count("vitral_requests_total", method="embed", code="NOT_FOUND", model="") == 1
        assert count("vitral_requests_total", method="embed", code="INVALID_ARGUMENT") == 1
        assert count("vitral_rejections_total") == 2
        assert count("vitral_rejections_total", reason="model_not_found") == 1
        assert count("vitral_images_total", model="tiny", code="OK") == 7
        assert count("vitral_images_total", model="tiny", code="INVALID_ARGUMENT") == 1
        assert count("vitral_images_total") == 8
        assert count("vitral_batch_images_sum", model="tiny") == 7
        assert count("vitral_request_seconds_count", model="tiny") == 4
        for stage in STAGES:
            assert count("vitral_stage_seconds_count", model="tiny", stage=stage) == 4, stage
        # The fourth request was faster than a second.
        told = sum(timings.total_ms for timings in replies) / 1e3
        assert told < count("vitral_request_seconds_sum", model="tiny") < told + 1
        decoded = sum(timings.decode_ms for timings in replies) / 1e3
        assert decoded < count("vitral_stage_seconds_sum", stage="decode") < decoded + 1
        resident = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096
        assert count("process_resident_memory_bytes") == pytest.approx(resident, rel=0.2)
        assert server.stop() == 0


def test_the_page_says_what_the_model_is_and_where_it_runs(small_repo: Path, tmp_path: Path) -> None:
    repo = tmp_path / "models"
    repo.mkdir()
    (repo / "tiny").symlink_to(small_repo / "tiny")
    (repo / "broken" / "1").mkdir(parents=True)
    with running(repo, "--metrics-port", "0", log=tmp_path / "log") as server:
        found = scrape(server.told["metrics"])
        with Client(server.address) as client:
            model = client.model("tiny")
    [info] = [s.labels for f in found for s in f.samples if s.name == "vitral_model_info"]
    assert info == {
        "model": "tiny",
        "version": "1",
        "fingerprint": model.spec.fingerprint,
        "precision": "float32",
        "provider": "CPUExecutionProvider",
        "device": "cpu",
        "device_asked": "cpu",
        "decode": "exact",
    }
    assert value(found, "vitral_model_ready", model="tiny", version="1") == 1
    assert [s.value for f in found for s in f.samples if s.labels.get("model") == "broken"] == [0]
    assert value(found, "vitral_ready") == 1
    assert value(found, "vitral_model_pixels_equal", model="tiny") == model.replay.pixels_equal
    seconds = value(found, "vitral_model_load_seconds", model="tiny")
    assert seconds == pytest.approx(model.load_ms / 1e3, rel=1e-3)


def test_a_full_queue_is_seen_and_refusals_have_their_reason(small_repo: Path, tmp_path: Path) -> None:
    slow = ("--queue-delay-ms", "1000", "--max-queue-images", "1", "--max-items", "2")
    with running(small_repo, "--metrics-port", "0", *slow, log=tmp_path / "log") as server:
        page = server.told["metrics"]
        with grpc.insecure_channel(server.address) as channel:
            stub = EmbeddingServiceStub(channel)
            first = stub.Embed.future(REQUEST, timeout=20)
            _until(lambda: value(scrape(page), "vitral_queue_images", model="tiny") == 1)
            full = scrape(page)
            assert value(full, "vitral_work_images") == value(full, "vitral_work_images_limit") == 1
            assert value(full, "vitral_work_calls") == 1
            assert value(full, "vitral_work_bytes") > len(ROCKET)
            for items in ([*REQUEST.items], [*REQUEST.items] * 2):
                with pytest.raises(grpc.RpcError):
                    stub.Embed(pb.EmbedRequest(items=items), timeout=10)
            first.result()
            with pytest.raises(grpc.RpcError):
                stub.Embed(REQUEST, timeout=0.2)
        _until(lambda: value(scrape(page), "vitral_work_images") == 0)
        found = scrape(page)
    assert value(found, "vitral_rejections_total", model="tiny", reason="queue_full") == 1
    assert value(found, "vitral_rejections_total", model="tiny", reason="too_large") == 1
    gone = {
        reason: value(found, "vitral_rejections_total", reason=reason) for reason in ("deadline", "cancelled")
    }
    assert sum(gone.values()) == 1, "whichever of the two, the server's clock or the caller's, was first"
    assert value(found, "vitral_images_total", code="RESOURCE_EXHAUSTED") == 3
    assert value(found, "vitral_images_total", code="OK") == 1


def test_workers_are_told_apart_and_one_that_dies_begins_again(small_repo: Path, tmp_path: Path) -> None:
    with running(small_repo, "--workers", "2", "--metrics-port", "0", log=tmp_path / "log") as server:
        page = server.told["metrics"]
        calls = 0

        def ask() -> bool:
            nonlocal calls
            with grpc.insecure_channel(server.address, options=OWN) as channel:
                EmbeddingServiceStub(channel).Embed(REQUEST, timeout=10)
            calls += 1
            found = scrape(page)
            return all(value(found, "vitral_requests_total", worker=worker) for worker in "12")

        _until(ask)
        found = scrape(page)
        assert value(found, "vitral_requests_total", method="embed", code="OK") == calls
        assert value(found, "vitral_worker_up") == 2
        assert len({family.name for family in found}) == len(found), "each family once"
        for worker, pid in _pids(server).items():
            started = value(found, "process_start_time_seconds", worker=str(worker))
            assert abs(started - time.time()) < 120
            os.kill(pid, signal.SIGSTOP if worker == 1 else signal.SIGCONT)
        stopped = scrape(page)
        assert value(stopped, "vitral_worker_up", worker="1") == 0
        assert value(stopped, "vitral_ready", worker="1") == 0
        assert value(stopped, "vitral_worker_up", worker="2") == 1
        os.kill(_pids(server)[1], signal.SIGKILL)
        _until(lambda: value(scrape(page), "vitral_worker_up") == 2)
        again = scrape(page)
        assert value(again, "vitral_requests_total", worker="1") == 0
        assert value(again, "vitral_requests_total", worker="2") > 0
        assert {s.labels["worker"] for f in again for s in f.samples} == {"0", "1", "2"}
        assert server.stop() == 0


def _pids(server: Running) -> dict[int, int]:
    return {line["worker"]: line["pid"] for line in server.lines("worker serves")}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_is_said(small_repo: Path, workers: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        line = command("--repo", str(small_repo), "--port", "0", "--device", "cpu", "--workers", workers)
        done = subprocess.run(
            [*line, "--metrics-port", taken], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{taken}" in done.stderr.splitlines()[-1]


def test_what_is_off_is_not_imported(small_repo: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import vitral_server.app as app\n"
        "from vitral_server.config import ServerConfig\n"
        f"config = ServerConfig(Path({str(small_repo)!r}))\n"
        "assert app.telemetry(config) == app.Telemetry()\n"
        "print(*(name for name in sys.modules if name.startswith(('prometheus', 'opentelemetry'))))"
    )
    environ = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.strip() == ""


def test_a_worker_shows_its_page_to_its_supervisor_only() -> None:
    whole = ServerConfig(Path("there"), workers=2, metrics_port=9464, metrics_host="0.0.0.0")  # noqa: S104
    part = share(whole, port=7, cores=2)
    assert (part.metrics_port, part.metrics_host) == (0, "127.0.0.1")
    assert share(ServerConfig(Path("there"), workers=2), port=7, cores=2).metrics_port == -1
