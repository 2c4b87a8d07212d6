"""One metrics page for several workers: each is asked when it is, and every sample says whose it is.

Nothing is added up here: a worker that was started again begins at 0, which `rate` understands of one series,
and would take for a loss in a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_SECONDS = 2.0
"""That a worker has to answer; one that does not is left out, and says so by `vitral_worker_up`."""

_AT_ONCE = 16
_WATCHER = "0"
"""The label of the process that watches; workers count from 1."""


class Gathered(Collector):
    """The pages of all workers as one.

    Args:
        addresses: gives the metrics address of each worker that serves, by its number. From any thread.
        workers: how many there should be.
    """

    def __init__(self, addresses: Callable[[], Mapping[int, str]], *, workers: int) -> None:
        self._addresses, self._workers = addresses, workers
        self._own = ProcessCollector(registry=None)

    def collect(self) -> Iterator[Metric]:
        """Every family once, with the samples of all workers."""
        pages = self._pages()
        up = GaugeMetricFamily("vitral_worker_up", "1 where the worker answers.", labels=("worker",))
        for number in range(1, self._workers + 1):
            up.add_metric((str(number),), float(bool(pages.get(number))))
        yield up
        every: dict[str, Metric] = {}
        _add(every, self._own.collect(), _WATCHER)
        for number, page in sorted(pages.items()):
            _add(every, text_string_to_metric_families(page), str(number))
        yield from every.values()

    def _pages(self) -> dict[int, str]:
        addresses = self._addresses()
        if not addresses:
            return {}
        with ThreadPoolExecutor(min(len(addresses), _AT_ONCE)) as pool:
            return dict(zip(addresses, pool.map(_page, addresses.values()), strict=True))


def registry(addresses: Callable[[], Mapping[int, str]], *, workers: int) -> CollectorRegistry:
    """What the page of the whole server shows."""
    made = CollectorRegistry()
    made.register(Gathered(addresses, workers=workers))
    return made


def _page(address: str) -> str:
    """The page of one worker; empty where it does not answer."""
    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host, int(port), timeout=_SECONDS)  # no proxy is asked
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except (OSError, HTTPException):
        return ""
    finally:
        connection.close()


def _add(every: dict[str, Metric], families: Iterable[Metric], worker: str) -> None:
    for family in families:
        one = every.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        for sample in family.samples:
            one.samples.append(sample._replace(labels={**sample.labels, "worker": worker}))
