"""Spans from a caller through the server to the run, taken by a collector."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import photographs
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otlp_collector import Collector, collecting, said
from serving import command, running

from vitral.errors import InvalidArgumentError, ModelNotFoundError
from vitral_client import AsyncClient, Client, tracecontext
from vitral_server.config import parse

ROCKET = photographs.ROCKET.read_bytes()
STAGES = ["decode", "preprocess", "queue", "run", "encode"]
SLACK_NS = 1_000_000
CALLER = TracerProvider(shutdown_on_exit=False).get_tracer("caller")


async def test_a_call_is_followed_from_its_caller_to_its_run(small_repo: Path, tmp_path: Path) -> None:
    with collecting() as collector:
        with running(small_repo, "--trace-endpoint", collector.url, log=tmp_path / "log") as server:
            with Client(server.address) as client:
                with CALLER.start_as_current_span("sync") as first:
                    client.embed([ROCKET, b"no picture"], model="tiny", errors="return")
                    with pytest.raises(ModelNotFoundError):
                        client.embed(ROCKET, model="absent")
                with CALLER.start_as_current_span("stream") as streamed:
                    assert len(list(client.embed_iter([ROCKET] * 3, model="tiny", batch=1))) == 3
                client.embed(ROCKET, model="tiny")
            async with AsyncClient(server.address) as aio:
                with CALLER.start_as_current_span("asyncio") as second:
                    await aio.embed(ROCKET, model="tiny")
            assert server.stop() == 0
        assert "Traceback" not in (tmp_path / "log").read_text()
    calls = collector.named("embed")
    whose = [call.trace_id.hex() for call in calls]
    for parent, count in ((first, 2), (streamed, 3), (second, 1)):
        assert whose.count(f"{parent.get_span_context().trace_id:032x}") == count
    assert [call.parent_span_id for call in calls].count(b"") == 1, (
        "who traces nothing gets a trace of their own"
    )
    call, absent = calls[:2]
    assert call.parent_span_id.hex() == f"{first.get_span_context().span_id:016x}"
    assert call.kind == call.SPAN_KIND_SERVER
    assert said(call) == {
        "rpc.system": "grpc",
        "rpc.method": "embed",
        "rpc.grpc.status_code": 0,
        "vitral.model": "tiny",
        "vitral.version": "1",
        "vitral.images": 2,
        "vitral.failed": 1,
        "vitral.outputs": ["patch_embeddings"],
    }
    _check_stages(collector, call)
    assert said(absent)["rpc.grpc.status_code"] == 5
    assert said(absent)["vitral.reason"] == "model_not_found"
    assert collector.below(absent) == []
    [resource] = {str(sorted(one.items())) for one in collector.resources}
    assert "('service.name', 'vitral-server')" in resource


def _check_stages(collector: Collector, call: trace.Span) -> None:
    stages = collector.below(call)
    assert sorted(stage.name for stage in stages) == sorted(STAGES)
    by_name = {stage.name: stage for stage in stages}
    ends = [by_name[name].end_time_unix_nano for name in STAGES]
    assert ends == sorted(ends)
    for stage in stages:
        assert call.start_time_unix_nano - SLACK_NS < stage.start_time_unix_nano <= stage.end_time_unix_nano
        assert stage.end_time_unix_nano < call.end_time_unix_nano + SLACK_NS
    assert said(by_name["decode"])["vitral.images"] == 1
    assert 0 < said(by_name["decode"])["vitral.ms"] < 1e3


def test_a_run_is_linked_with_the_calls_in_it(small_repo: Path, tmp_path: Path) -> None:
    slow = ("--queue-delay-ms", "1000", "--max-batch-size", "4", "--instances", "1")
    environ = {"OTEL_TRACES_SAMPLER": "parentbased_always_off", "OTEL_SERVICE_NAME": "mine"}
    with collecting() as collector:
        environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
        with running(small_repo, *slow, log=tmp_path / "log", environ=environ) as server:
            with Client(server.address) as client, ThreadPoolExecutor(3) as pool:
                client.model("tiny")

                def embed(name: str) -> None:
                    images = [ROCKET] * (2 if name == "two" else 1)
                    if name == "unsampled":
                        client.embed(images, model="tiny")
                        return
                    with CALLER.start_as_current_span(name):
                        client.embed(images, model="tiny")

                list(pool.map(embed, ("one", "two", "unsampled")))
            assert server.stop() == 0
    calls, [batch] = collector.named("embed"), collector.named("batch")
    assert len(calls) == 2, "only what its caller samples"
    assert {one["service.name"] for one in collector.resources} == {"mine"}
    assert batch.parent_span_id == b""
    assert said(batch) == {"vitral.model": "tiny", "vitral.batch": 4, "vitral.calls": 2}
    assert {(link.trace_id, link.span_id) for link in batch.links} == {
        (call.trace_id, call.span_id) for call in calls
    }
    for call in calls:
        [run] = [stage for stage in collector.below(call) if stage.name == "run"]
        assert [(link.trace_id, link.span_id) for link in run.links] == [(batch.trace_id, batch.span_id)]
        assert run.trace_id == call.trace_id


def test_a_collector_that_is_away_holds_nobody_up(small_repo: Path, tmp_path: Path) -> None:
    with running(small_repo, "--trace-endpoint", "http://127.0.0.1:1", log=tmp_path / "log") as server:
        with Client(server.address) as client:
            begin = time.monotonic()
            client.embed([ROCKET] * 4, model="tiny")
            assert time.monotonic() - begin < 5
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 8


def test_a_client_without_opentelemetry_looks_for_nothing() -> None:
    code = (
        "import sys; from vitral_client import tracecontext; assert tracecontext.metadata() is None\n"
        "print(*(name for name in sys.modules if name.startswith('opentelemetry')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_only_a_span_under_way_is_taken_along() -> None:
    assert tracecontext.metadata() is None
    with CALLER.start_as_current_span("here") as span:
        context = span.get_span_context()
        expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        assert tracecontext.metadata() == (("traceparent", expected),)


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(InvalidArgumentError, match="trace_endpoint is 'collector:4317'; it must be a URL"):
        parse([], {"VITRAL_TRACE_ENDPOINT": "collector:4317"})


def test_what_is_not_installed_is_named(small_repo: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")
    line = command("--repo", str(small_repo), "--port", "0", "--trace-endpoint", "http://127.0.0.1:1")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("is not installed: add vitral[tracing]")
