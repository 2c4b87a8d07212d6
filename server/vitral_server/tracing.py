"""OpenTelemetry spans: one a call, below its caller's, with its stages; one a run, linked with its calls.

Imported only where traces are on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from vitral import __version__
from vitral_engine.intake import Row

if TYPE_CHECKING:
    from vitral_server.batcher import Ticket

_OURS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Status codes that count as the server's error, by OpenTelemetry's conventions for gRPC."""

_NAME = "vitral-server"


class Tracing:
    """The tracers of one process, and the way to the collector.

    Args:
        endpoint: URL of a collector's OTLP gRPC port; empty: what OTEL_EXPORTER_OTLP_* say.

    Calls are sampled as OTEL_TRACES_SAMPLER says. A run is there whenever one of its calls is, so that no
    link leads nowhere: it has a provider of its own, which samples all that it is asked for.
    """

    def __init__(self, endpoint: str) -> None:
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: _NAME}
        resource = Resource.create({**named, SERVICE_VERSION: __version__})
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint or None))
        self._calls = self._tracer(resource, None)
        self._runs = self._tracer(resource, ALWAYS_ON)

    def begin(self, method: str, metadata: Iterable[tuple[str, Any]]) -> Trace | None:
        """The trace of a call that begins; None where it is not sampled."""
        parent = propagate.extract({key: value for key, value in metadata if isinstance(value, str)})
        said = {"rpc.system": "grpc", "rpc.method": method}
        span = self._calls.start_span(method, parent, kind=SpanKind.SERVER, attributes=said)
        return Trace(self._calls, span) if span.is_recording() else None

    def ran(self, model: str, batch: Sequence[Ticket], start: float, *, failed: bool = False) -> None:
        """A run that began at `start` (monotonic) has just ended."""
        came = {ticket.assembly.trace: ticket.came for ticket in batch}
        calls = {one: at for one, at in came.items() if one is not None}
        if not calls:
            return
        took = monotonic() - start
        said = {"vitral.model": model, "vitral.batch": len(batch), "vitral.calls": len(calls)}
        links = [Link(one.context) for one in calls]
        run = _passed(self._runs, "batch", None, took, links=links, said=said, failed=failed)
        for one, at in calls.items():
            one.stage("queue", start - at, ago=took)
            one.stage("run", took, links=[Link(run.get_span_context())], failed=failed)

    def close(self) -> None:
        """Sends what is left."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _tracer(self, resource: Resource, sampler: Sampler | None) -> trace.Tracer:
        provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        return provider.get_tracer("vitral_server", __version__)


class Trace:
    """The span of one call, and its stages as they pass. From any thread, but for its beginning and end.

    Attributes:
        context: by which others link to it.
    """

    def __init__(self, tracer: trace.Tracer, span: Span) -> None:
        self.context = span.get_span_context()
        self._tracer, self._span = tracer, span
        self._read: list[tuple[float, float, int]] = []  # milliseconds of both stages, and the end in ns

    def note(self, said: Mapping[str, Any]) -> None:
        """Says something of the call."""
        self._span.set_attributes({f"vitral.{key}": value for key, value in said.items()})

    def read(self, row: Row) -> None:
        """An image has just been decoded and preprocessed."""
        self._read.append((row.decode_ms, row.preprocess_ms, time_ns()))

    def stage(
        self, name: str, took: float, *, ago: float = 0.0, links: Sequence[Link] = (), failed: bool = False
    ) -> None:
        """A stage of `took` seconds, which ended `ago` seconds before now."""
        _passed(self._tracer, name, self._span, took, ago=ago, links=links, failed=failed)

    def end(self, *, code: str, reason: str, failed: int) -> None:
        """The call has ended."""
        # One span for all images: some of them were read at the same time.
        self._spread("decode", [(decode, end - _ns(resize)) for decode, resize, end in self._read])
        self._spread("preprocess", [(resize, end) for _, resize, end in self._read])
        self._span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
        if reason:
            self.note({"reason": reason})
        else:
            self.note({"failed": failed})
        if code in _OURS:
            self._span.set_status(Status(StatusCode.ERROR, reason))
        self._span.end()

    def _spread(self, name: str, parts: Sequence[tuple[float, int]]) -> None:
        """One span from the first of these beginnings to the last end, with the sum of their milliseconds."""
        passed = [(ms, end) for ms, end in parts if ms]
        if passed:
            start, end = min(end - _ns(ms) for ms, end in passed), max(end for _, end in passed)
            said = {"vitral.images": len(passed), "vitral.ms": sum(ms for ms, _ in passed)}
            below = trace.set_span_in_context(self._span)
            self._tracer.start_span(name, below, start_time=start, attributes=said).end(end)


def _passed(
    tracer: trace.Tracer,
    name: str,
    parent: Span | None,
    took: float,
    *,
    ago: float = 0.0,
    links: Sequence[Link] = (),
    said: Mapping[str, Any] | None = None,
    failed: bool = False,
) -> Span:
    """A span of `took` seconds that ended `ago` seconds before now; a root without a parent."""
    end = time_ns() - int(ago * 1e9)
    span = tracer.start_span(
        name,
        trace.set_span_in_context(parent or trace.INVALID_SPAN),
        start_time=end - int(took * 1e9),
        attributes=said,
        links=links,
    )
    if failed:
        span.set_status(Status(StatusCode.ERROR))
    span.end(end)
    return span


def _ns(milliseconds: float) -> int:
    return int(milliseconds * 1e6)
