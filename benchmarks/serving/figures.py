"""What one run of one way came to, and the medians over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PERCENTS = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 96, 97, 98, 99, 99.5, 99.9, 100)
"""Percentiles of a latency curve."""


@dataclass(frozen=True)
class Figures:
    """One run.

    Attributes:
        way: its name.
        workload: its name.
        callers: threads that called; 0 where nobody is served.
        arrivals: images a second that were to come, of an open loop; 0 of a closed one.
        images: answered while it was measured, in so many `seconds`.
        latency: milliseconds by percentile.
        server_cpu_s: processor seconds of the server's processes, or of the one that serves nobody.
        client_cpu_s: processor seconds of the load generator.
        peak_mib: memory of the server's processes at most.
        wire_bytes: bytes on the loopback interface, both directions.
        others: cores that other work on the machine took meanwhile.
        stages: mean milliseconds of each stage, where the server tells.
        errors: calls that failed, by kind.
        note: how it was set up.
    """

    way: str
    workload: str
    callers: int
    images: int
    seconds: float
    arrivals: float = 0.0
    latency: Mapping[float, float] = field(default_factory=dict)
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    peak_mib: float = 0.0
    wire_bytes: int = 0
    others: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds


@dataclass(frozen=True)
class Row:
    """The medians of the rounds of one way at one number of callers.

    Attributes:
        rate: images a second; `low` and `high` are those of the slowest and the fastest round.
        server_cpu, client_cpu: processor seconds for 1,000 images, which is milliseconds for one.
        wire_bytes: of one image.
    """

    way: str
    workload: str
    callers: int
    arrivals: float
    rate: float
    low: float
    high: float
    latency: dict[float, float]
    server_cpu: float
    client_cpu: float
    peak_mib: float
    wire_bytes: float
    others: float
    stages: dict[str, float]
    errors: dict[str, int]
    note: str

    def percentile(self, percent: float) -> float:
        """Milliseconds; NaN where nobody was served."""
        return self.latency.get(percent, float("nan"))


def summary(rounds: Sequence[Figures]) -> Row:
    """The medians of these rounds, each figure by itself; errors are added up."""
    first, rates = rounds[0], [one.rate for one in rounds]
    kinds = {kind for one in rounds for kind in one.errors}
    return Row(
        way=first.way,
        workload=first.workload,
        callers=first.callers,
        arrivals=first.arrivals,
        rate=statistics.median(rates),
        low=min(rates),
        high=max(rates),
        latency=_middle([one.latency for one in rounds]),
        server_cpu=statistics.median(one.server_cpu_s / max(one.images, 1) * 1e3 for one in rounds),
        client_cpu=statistics.median(one.client_cpu_s / max(one.images, 1) * 1e3 for one in rounds),
        peak_mib=max(one.peak_mib for one in rounds),
        wire_bytes=statistics.median(one.wire_bytes / max(one.images, 1) for one in rounds),
        others=statistics.median(one.others for one in rounds),
        stages=_middle([one.stages for one in rounds]),
        errors={kind: sum(one.errors.get(kind, 0) for one in rounds) for kind in sorted(kinds)},
        note=first.note,
    )


def _middle(rounds: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
    return {key: statistics.median(one[key] for one in rounds if key in one) for key in rounds[0]}


def curve(milliseconds: Sequence[float]) -> dict[float, float]:
    """Latencies by percentile; empty when there are none."""
    if not milliseconds:
        return {}
    return dict(zip(PERCENTS, map(float, np.percentile(milliseconds, PERCENTS)), strict=True))
