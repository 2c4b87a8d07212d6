"""A small OpenTelemetry collector on loopback: it takes spans over gRPC and keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector(service.TraceServiceServicer):
    """Every span that came, and what sent them said of itself."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    def Export(self, request: Any, context: Any) -> pb.ExportTraceServiceResponse:  # noqa: N802
        """Takes spans."""
        for group in request.resource_spans:
            self.resources.append(said(group.resource))
            for scope in group.scope_spans:
                self.spans += scope.spans
        return pb.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        """Spans of this name, in the order of their beginnings."""
        return sorted((s for s in self.spans if s.name == name), key=lambda s: s.start_time_unix_nano)

    def below(self, parent: Span) -> list[Span]:
        """Children, in the order of their beginnings."""
        found = [s for s in self.spans if s.parent_span_id == parent.span_id]
        return sorted(found, key=lambda s: s.start_time_unix_nano)


def said(of: Any) -> dict[str, Any]:
    """Attributes as Python has them."""
    return {pair.key: _plain(pair.value) for pair in of.attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    held = getattr(value, kind)
    return [_plain(one) for one in held.values] if kind == "array_value" else held


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""
    server, collector = grpc.server(ThreadPoolExecutor(2)), Collector()
    service.add_TraceServiceServicer_to_server(collector, server)
    collector.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
