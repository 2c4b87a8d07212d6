"""What is read of the server at the moment somebody asks: it costs nothing until then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vitral import __version__
from vitral_server import describe
from vitral_server.admission import Admission
from vitral_server.config import ServerConfig
from vitral_server.registry import Registry, Served


class Gauges(Collector):
    """Models, queues and what is in work. Read by the thread that answers the metrics page."""

    def __init__(self, registry: Registry, admission: Admission, config: ServerConfig) -> None:
        self._registry, self._admission, self._config = registry, admission, config
        self._libraries = describe.libraries()

    def collect(self) -> Iterator[Metric]:
        """Every gauge."""
        yield from self._server()
        yield from self._models()

    def _server(self) -> Iterator[Metric]:
        at = self._admission
        runtime = self._libraries.get("onnxruntime") or self._libraries.get("onnxruntime-gpu", "")
        labels = {"version": __version__, "onnxruntime": runtime, "python": self._libraries["python"]}
        yield _gauge("vitral_build_info", "What runs here; always 1.", [(labels, 1)])
        yield _gauge("vitral_ready", "1 while the server as a whole is ready.", [({}, self._registry.ready)])
        for name, said, value in (
            ("vitral_work_calls", "Calls accepted and not yet answered.", at.calls),
            ("vitral_work_images", "Images accepted and not yet answered.", at.images),
            ("vitral_work_images_limit", "Most of them.", at.max_images),
            ("vitral_work_bytes", "Bytes held for them.", at.bytes),
            ("vitral_work_bytes_limit", "Most of those.", at.max_bytes),
        ):
            yield _gauge(name, said, [({}, value)])

    def _models(self) -> Iterator[Metric]:
        every = self._registry.models
        loaded = [one for one in every if one.engine is not None]
        yield _gauge("vitral_model_ready", "1 while it serves.", [(_of(one), not one.fault) for one in every])
        yield _gauge("vitral_model_info", "What it is, and where it runs; always 1.", map(self._info, loaded))
        yield _gauge(
            "vitral_model_pixels_equal",
            "1 where the golden photograph gave the recorded pixels.",
            [(_of(one), one.engine.replayed.pixels_equal) for one in loaded if one.engine],
        )
        yield _gauge(
            "vitral_model_proven",
            "1 where it was proven against a reference.",
            [(_of(one), not one.unproven) for one in loaded],
        )
        yield _gauge(
            "vitral_model_load_seconds",
            "From opening its folder to ready.",
            [(_of(one), one.load_ms / 1e3) for one in loaded],
        )
        yield _gauge(
            "vitral_model_max_batch_images",
            "Most images of a run.",
            [(_of(one), one.max_batch) for one in loaded],
        )
        queues = [({"model": one.name}, list(one.batchers.values())) for one in loaded]
        waiting = [(labels, sum(one.waiting for one in batchers)) for labels, batchers in queues]
        yield _gauge("vitral_queue_images", "Images that wait for a run.", waiting)
        busy = [(labels, sum(one.busy for one in batchers)) for labels, batchers in queues]
        yield _gauge("vitral_runs_in_progress", "Runs that have begun and not ended.", busy)

    def _info(self, served: Served) -> tuple[dict[str, str], float]:
        assert served.engine is not None
        spec, placement = served.engine.spec, served.engine.placement
        return _of(served) | {
            "fingerprint": spec.fingerprint,
            "precision": spec.precision,
            "provider": placement.provider,
            "device": placement.device,
            "device_asked": self._config.device,
            "decode": served.engine.decode,
        }, 1


def _of(served: Served) -> dict[str, str]:
    return {"model": served.name, "version": served.version}


def _gauge(name: str, said: str, values: Iterable[tuple[dict[str, str], float]]) -> GaugeMetricFamily:
    made = GaugeMetricFamily(name, said)
    for labels, value in values:
        made.add_sample(name, labels, float(value))
    return made
