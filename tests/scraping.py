"""The metrics page of a running server, as Prometheus reads it."""

from __future__ import annotations

from http.client import HTTPConnection

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

TARGET = frozenset({"job", "instance"})
"""Labels that Prometheus adds to whatever it scrapes."""


def scrape(address: str) -> list[Metric]:
    """Every family of the page."""
    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", "/metrics")
        reply = connection.getresponse()
        assert reply.status == 200
        return list(text_string_to_metric_families(reply.read().decode()))
    finally:
        connection.close()


def value(families: list[Metric], name: str, **labels: str) -> float:
    """The sum of the samples of this name with these labels; 0 where there is none."""
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def labels(families: list[Metric]) -> dict[str, set[str]]:
    """Sample name to the names of its labels."""
    found: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found
