"""A run that fails is counted, and seen in the trace of each call that it fails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from otlp_collector import collecting, said
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from scraping import value

from vitral import selection
from vitral.errors import ServerError
from vitral_engine.artifact import open_artifact
from vitral_engine.buffers import Buffers
from vitral_engine.device import place
from vitral_engine.session import GraphSession
from vitral_server.batcher import Batcher, BatchOptions, Ticket
from vitral_server.config import ServerConfig
from vitral_server.metrics import Metrics
from vitral_server.reply import Assembly
from vitral_server.telemetry import OFF, Telemetry, telemetry
from vitral_server.tracing import Tracing


class Failing(GraphSession):
    """No run of it succeeds."""

    def run_bound(self, buffers: Buffers, count: int, *, alone: bool = True) -> None:
        raise RuntimeError("out of memory")


async def test_a_failed_run_is_counted_and_traced(small_repo: Path) -> None:
    found = open_artifact(small_repo / "tiny")
    graph = next(graph for graph in found.spec.graphs if graph.input.folded)
    session = Failing(found.folder / graph.file, graph, found.spec, placement=place("cpu"))
    with collecting() as collector:
        noted = Telemetry(Metrics(), Tracing(collector.url))
        assert noted.metrics is not None
        assert noted.tracing is not None
        batcher = Batcher(session, BatchOptions(max_batch=4), name="test", runs=noted.runs("tiny"))
        trace = noted.tracing.begin(
            "embed", (("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"), ("x-bin", b""))
        )
        assert trace is not None
        wanted = [selection.part(found.spec, "patch_embeddings", selection.WHOLE)]
        assembly = Assembly(found.spec, "1", wanted, images=1, deadline=monotonic() + 10, trace=trace)
        batcher.submit([Ticket(assembly, 0, np.zeros((32, 32, 3), np.uint8), monotonic())])
        with pytest.raises(ServerError, match="the run failed"):
            await assembly.future
        trace.end(code="INTERNAL", reason="internal", failed=0)
        batcher.close()
        noted.close()
    page = list(text_string_to_metric_families(generate_latest(noted.metrics.registry).decode()))
    assert value(page, "vitral_run_failures_total", model="tiny") == 1
    assert value(page, "vitral_batch_images_count", model="tiny") == 0
    [call], [batch] = collector.named("embed"), collector.named("batch")
    assert call.trace_id == bytes.fromhex("a" * 32)
    assert call.parent_span_id == bytes.fromhex("b" * 16)
    assert said(call)["vitral.reason"] == "internal"
    stages = {stage.name: stage for stage in collector.below(call)}
    assert sorted(stages) == ["queue", "run"]
    for span in (call, batch, stages["run"]):
        assert span.status.code == span.status.STATUS_CODE_ERROR
    assert stages["queue"].status.code == stages["queue"].status.STATUS_CODE_UNSET
    assert [link.span_id for link in batch.links] == [call.span_id]


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_opentelemetrys_own_variables_turn_traces_on(
    environ: Mapping[str, str], on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    made: Any = telemetry(ServerConfig(Path("there")))
    assert (made.tracing is not None, made.metrics, made.page) == (on, None, "")
    assert (made == OFF) is not on
    made.close()
