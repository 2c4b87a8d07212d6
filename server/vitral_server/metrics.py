"""The numbers of requests and runs, for Prometheus. Recording is a handful of additions a request.

Imported only where metrics are on: the HTTP server that comes with the library is not small.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.registry import Collector

from vitral.errors import ImageError
from vitral.results import Timings

STAGES = ("decode", "preprocess", "queue", "run", "encode")
"""Of one request, in order."""

_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
_FAILED = ImageError.code.name


@dataclass(frozen=True)
class _OfModel:
    """What is recorded for every good request of one model, looked up once."""

    total: Histogram
    stages: tuple[Histogram, ...]
    images: Counter
    batches: Histogram
    failed_runs: Counter


class Metrics:
    """Every instrument of one process.

    Attributes:
        registry: what the metrics page shows.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, unread
        self.registry = to = CollectorRegistry()
        ProcessCollector(registry=to)
        self._requests = Counter(
            "vitral_requests", "Calls, by how they ended.", ("method", "model", "code"), registry=to
        )
        self._rejections = Counter(
            "vitral_rejections", "Calls without an answer, by reason.", ("model", "reason"), registry=to
        )
        self._images = Counter("vitral_images", "Images, by how they ended.", ("model", "code"), registry=to)
        self._total = Histogram(
            "vitral_request_seconds", "Answered requests, in all.", ("model",), registry=to, buckets=_SECONDS
        )
        self._stages = Histogram(
            "vitral_stage_seconds",
            "Stages that they passed.",
            ("model", "stage"),
            registry=to,
            buckets=_SECONDS,
        )
        self._batches = Histogram(
            "vitral_batch_images", "Images of each run.", ("model",), registry=to, buckets=_IMAGES
        )
        self._failed_runs = Counter("vitral_run_failures", "Runs that failed.", ("model",), registry=to)
        self._of_model: dict[str, _OfModel] = {}
        self._of_call: dict[tuple[str, str, str], Counter] = {}

    def follow(self, models: Iterable[str], state: Collector) -> None:
        """Begins the series of these models at 0, and shows what is read of the server when it is asked."""
        for model in models:
            self._model(model)
        self.registry.register(state)

    def ended(self, *, method: str, model: str, code: str, reason: str, images: int) -> None:
        """A call has ended; `model` is empty where it was not found, or none is needed."""
        key = method, model, code
        counter = self._of_call.get(key)
        if counter is None:
            counter = self._of_call[key] = self._requests.labels(*key)
        counter.inc()
        if reason:
            self._rejections.labels(model, reason).inc()
            if images:
                self._images.labels(model, code).inc(images)

    def answered(self, model: str, timings: Timings, *, images: int, failed: int) -> None:
        """A request was answered, some images perhaps with errors. Stages it did not pass are left out."""
        of = self._model(model)
        of.total.observe(timings.total_ms / 1e3)
        took = (timings.decode_ms, timings.preprocess_ms, timings.queue_ms, timings.run_ms, timings.encode_ms)
        for stage, milliseconds in zip(of.stages, took, strict=True):
            if milliseconds:
                stage.observe(milliseconds / 1e3)
        of.images.inc(images - failed)
        if failed:
            self._images.labels(model, _FAILED).inc(failed)

    def ran(self, model: str, images: int) -> None:
        """A run was done. From any thread."""
        self._model(model).batches.observe(images)

    def run_failed(self, model: str) -> None:
        """A run failed. From any thread."""
        self._model(model).failed_runs.inc()

    def _model(self, model: str) -> _OfModel:
        found = self._of_model.get(model)
        if found is None:
            found = self._of_model[model] = _OfModel(
                total=self._total.labels(model),
                stages=tuple(self._stages.labels(model, stage) for stage in STAGES),
                images=self._images.labels(model, "OK"),
                batches=self._batches.labels(model),
                failed_runs=self._failed_runs.labels(model),
            )
        return found
