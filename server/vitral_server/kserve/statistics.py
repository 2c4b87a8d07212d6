"""Counts and cumulative times of every model, as ModelStatistics tells them. Lives on the event loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from vitral.results import Timings
from vitral_server.kserve.catalogue import Entry

_NS = 1_000_000
"""Nanoseconds of a millisecond."""


@dataclass
class Sum:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ms: float) -> None:
        """Once more."""
        self.count += 1
        self.ns += int(ms * _NS)

    def tell(self, message: Any) -> None:
        """Writes it down; a message that was never written to is still there."""
        message.SetInParent()
        message.count, message.ns = self.count, self.ns


@dataclass
class Stages:
    """Time from a request's input to its output: making rows, running, framing."""

    input: Sum = field(default_factory=Sum)
    infer: Sum = field(default_factory=Sum)
    output: Sum = field(default_factory=Sum)

    def tell(self, message: Any) -> None:
        """Writes them down."""
        self.input.tell(message.compute_input)
        self.infer.tell(message.compute_infer)
        self.output.tell(message.compute_output)


@dataclass
class Counts:
    """Of one version of a model."""

    success: Sum = field(default_factory=Sum)
    fail: Sum = field(default_factory=Sum)
    queue: Sum = field(default_factory=Sum)
    stages: Stages = field(default_factory=Stages)
    batches: defaultdict[int, Stages] = field(default_factory=lambda: defaultdict(Stages))
    images: int = 0
    runs: int = 0
    last_ms: int = 0


class Statistics:
    """The counts of every model under each of its names."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[str, str], Counts] = defaultdict(Counts)

    def succeeded(
        self, entry: Entry, timings: Timings, *, images: int, runs: Sequence[tuple[int, float]]
    ) -> None:
        """A request was answered.

        Args:
            entry: the model.
            timings: where its time went.
            images: how many it had.
            runs: batch size and milliseconds of each run that is to be counted.
        """
        counts = self._counts[entry.name, entry.version]
        counts.last_ms = int(time() * 1e3)
        counts.images += images
        counts.success.add(timings.total_ms)
        # Threads work side by side: together their stages may take longer than the request. Readers subtract
        # them from the whole.
        left = timings.total_ms
        made = timings.decode_ms + timings.preprocess_ms
        told = []
        for stage in (timings.queue_ms, timings.encode_ms, timings.run_ms, made):
            told.append(min(stage, left))
            left -= told[-1]
        queue, output, infer, taken = told
        counts.queue.add(queue)
        for total, ms in zip(_sums(counts.stages), (taken, infer, output), strict=True):
            total.add(ms)
        counts.runs += len(runs)
        for size, ms in runs:
            parts = (taken / len(runs), ms, output / len(runs))
            for total, part in zip(_sums(counts.batches[size]), parts, strict=True):
                total.add(part)

    def failed(self, entry: Entry, ms: float) -> None:
        """A request that was accepted came to nothing."""
        self._counts[entry.name, entry.version].fail.add(ms)

    def tell(self, entries: Iterable[Entry]) -> Any:
        """What was counted of these models."""
        reply = pb.ModelStatisticsResponse()
        for entry in entries:
            counts = self._counts.get((entry.name, entry.version), Counts())
            one = reply.model_stats.add(
                name=entry.name,
                version=entry.version,
                last_inference=counts.last_ms,
                inference_count=counts.images,
                execution_count=counts.runs,
            )
            stats = one.inference_stats
            counts.success.tell(stats.success)
            counts.fail.tell(stats.fail)
            counts.queue.tell(stats.queue)
            counts.stages.tell(stats)
            Sum().tell(stats.cache_hit)
            Sum().tell(stats.cache_miss)
            for size, stages in sorted(counts.batches.items()):
                stages.tell(one.batch_stats.add(batch_size=size))
        return reply


def _sums(stages: Stages) -> tuple[Sum, Sum, Sum]:
    return stages.input, stages.infer, stages.output
