"""What is noted of requests and runs besides their log lines: metrics and traces, each where it is on."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitral.errors import UnavailableError
from vitral_server.config import ServerConfig

if TYPE_CHECKING:  # what is off is not imported, and this module is part of every request
    from vitral_server.admission import Admission
    from vitral_server.batcher import Ticket
    from vitral_server.log import RequestLine
    from vitral_server.metrics import Metrics
    from vitral_server.registry import Registry
    from vitral_server.tracing import Trace, Tracing

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(frozen=True)
class Telemetry:
    """Metrics and traces of one process; None: off.

    Attributes:
        page: address of the metrics page.
    """

    metrics: Metrics | None = None
    tracing: Tracing | None = None
    page: str = ""

    def follow(self, registry: Registry, admission: Admission, config: ServerConfig) -> None:
        """Shows the state of models and queues."""
        if self.metrics is not None:
            from vitral_server.gauges import Gauges

            names = [model.name for model in registry.models if model.engine is not None]
            self.metrics.follow(names, Gauges(registry, admission, config))

    def begin(self, method: str, context: Any) -> Trace | None:
        """The trace of a call that begins, below its caller's span; None: it is not traced."""
        if self.tracing is None:
            return None
        return self.tracing.begin(method, context.invocation_metadata())

    def ended(self, method: str, line: RequestLine, *, code: str, reason: str) -> None:
        """A call has ended, however it did. On the event loop."""
        if self.metrics is not None:
            frame, images = line.frame, line.images
            self.metrics.ended(method=method, model=line.model, code=code, reason=reason, images=images)
            if frame is not None and not reason:
                self.metrics.answered(line.model, frame.timings, images=images, failed=frame.failed)
        if line.trace is not None:
            line.trace.end(code=code, reason=reason, failed=line.frame.failed if line.frame else 0)

    def runs(self, model: str) -> Runs | None:
        """What notes the runs of a model; None: nothing does."""
        return Runs(self, model) if self.metrics or self.tracing else None

    def close(self) -> None:
        """Sends what is left; may take seconds where nobody takes it."""
        if self.tracing is not None:
            self.tracing.close()


OFF = Telemetry()
"""Nothing is noted."""


class Runs:
    """Notes every run of one model. From run threads."""

    def __init__(self, telemetry: Telemetry, model: str) -> None:
        self._metrics, self._tracing, self._model = telemetry.metrics, telemetry.tracing, model

    def ran(self, batch: Sequence[Ticket], start: float) -> None:
        """A run that began at `start` (monotonic) is done; to be called before its rows are delivered."""
        if self._metrics is not None:
            self._metrics.ran(self._model, len(batch))
        if self._tracing is not None:
            self._tracing.ran(self._model, batch, start)

    def failed(self, batch: Sequence[Ticket], start: float) -> None:
        """The same of a run that failed."""
        if self._metrics is not None:
            self._metrics.run_failed(self._model)
        if self._tracing is not None:
            self._tracing.ran(self._model, batch, start, failed=True)


def telemetry(config: ServerConfig) -> Telemetry:
    """What the operator wants of both; the metrics page is there at once.

    Raises:
        UnavailableError: the port of the metrics page is taken, or what is needed is not installed.
    """
    try:
        metrics, page = _metrics(config)
        return Telemetry(metrics, _tracing(config), page)
    except ModuleNotFoundError as error:
        extra = "tracing" if (error.name or "").startswith("opentelemetry") else "server"
        raise UnavailableError(f"{error.name} is not installed: add vitral[{extra}]") from None


def _metrics(config: ServerConfig) -> tuple[Metrics | None, str]:
    if config.metrics_port < 0:
        return None, ""
    from vitral_server.exposition import expose
    from vitral_server.metrics import Metrics

    made = Metrics()
    return made, expose(made.registry, host=config.metrics_host, port=config.metrics_port)


def _tracing(config: ServerConfig) -> Tracing | None:
    """By the flag, or by OpenTelemetry's own variables, which may be meant for other programs too."""
    named = [name for name in _ENDPOINTS if os.environ.get(name)]
    if not config.trace_endpoint and (not named or os.environ.get("OTEL_TRACES_EXPORTER") == "none"):
        return None
    try:
        from vitral_server.tracing import Tracing
    except ModuleNotFoundError as error:
        if config.trace_endpoint:
            raise
        log.warning("no traces: add vitral[tracing]", extra={"missing": error.name, "variable": named[0]})
        return None
    return Tracing(config.trace_endpoint)
