"""One way on one workload: its answer held against the engine's, and a short closed loop of calls."""

from __future__ import annotations

import io
import itertools
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.extract_pictures import cut, photographs
from benchmarks.serving.peers.process import cpu_seconds
from benchmarks.serving.way import Call, Picture, Way
from benchmarks.serving.workload import Workload

AGREEMENT: Mapping[str, float] = MappingProxyType({"float32": 1e-5, "float16": 2e-3})
"""Largest relative L2 distance from the engine's float32 answer."""

_PICTURES = 12
_WARM_UP = 1.0


class Wrong(SystemExit):
    """An answer is not the engine's."""


@dataclass(frozen=True)
class Material:
    """A workload's pictures, cut from real photographs, and the engine's answer to the first."""

    workload: Workload
    pictures: Sequence[Picture]
    truth: NDArray[Any]

    def check(self, name: str, got: NDArray[Any]) -> float:
        """Relative L2 distance of an answer to the first picture.

        Raises:
            Wrong: it is too large, or shape or element type are others.
        """
        told, most = self.workload, AGREEMENT[self.workload.dtype]
        if got.dtype != told.dtype or got.shape != self.truth.shape:
            wanted = f"{told.dtype} {self.truth.shape}"
            raise Wrong(f"{name} on {told.name}: the answer is {got.dtype} {got.shape}, not {wanted}")
        gap = np.linalg.norm(got.astype(np.float64) - self.truth) / np.linalg.norm(self.truth)
        if not gap < most:
            raise Wrong(f"{name} on {told.name}: relative L2 {gap:.1e} from the engine, at most {most:.0e}")
        return float(gap)


def prepare(repo: Path, workload: Workload) -> Material:
    """Cuts the pictures and asks the engine."""
    import vitral_engine

    choice, sources = random.Random(0), photographs()  # noqa: S311
    height, width = workload.pictures
    cuts = [cut(choice.choice(sources), (width, height), choice) for _ in range(_PICTURES)]
    pictures: list[Picture] = []
    for picture in cuts:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        pictures.append(np.asarray(picture) if workload.door == "pixels" else file.getvalue())
    model = vitral_engine.open(repo / workload.model)
    [found] = model.embed(pictures[:1], outputs=[workload.output])
    model.close()
    whole = found.outputs[workload.output]
    return Material(workload, pictures, whole[0] if workload.view == "cls" else whole)


@dataclass(frozen=True)
class Result:
    """What a way came to.

    Attributes:
        title: the way; how it was set up is in `note`.
        rel_l2: distance of its answer.
        processes: number of its server's.
        images_per_s: 0, as the following are, where it was not measured.
        p99_ms: 99th percentile of the latency.
        server_ms: the server's processor milliseconds an image.
        client_ms: this process's.
    """

    title: str
    note: str
    workload: str
    rel_l2: float
    processes: int
    images_per_s: float = 0.0
    p99_ms: float = 0.0
    server_ms: float = 0.0
    client_ms: float = 0.0


def run(way: Way, repo: Path, material: Material, *, callers: int, seconds: float) -> Result:
    """Starts its server, checks an answer, and calls it for so many seconds, if any, after a warm-up."""
    workload = material.workload
    with way.start(repo, workload) as running, way.caller(running.address, workload) as call:
        gap = material.check(way.name, call(material.pictures[0]))
        result = Result(way.title, running.note, workload.name, gap, len(running.pids))
        if not seconds:
            return result
        closed(call, material.pictures, callers=callers, seconds=_WARM_UP)
        server, client = cpu_seconds(running.pids), time.process_time()
        latencies = closed(call, material.pictures, callers=callers, seconds=seconds)
        count = len(latencies)
        return replace(
            result,
            images_per_s=count / seconds,
            p99_ms=float(np.percentile(latencies, 99)) * 1e3,
            server_ms=(cpu_seconds(running.pids) - server) / count * 1e3,
            client_ms=(time.process_time() - client) / count * 1e3,
        )


def closed(call: Call, pictures: Sequence[Picture], *, callers: int, seconds: float) -> list[float]:
    """Latencies in seconds of so many threads, each calling again as soon as it is answered."""
    turn, until = itertools.count(), time.perf_counter() + seconds
    latencies: list[float] = []
    failures: list[Exception] = []

    def caller() -> None:
        while (start := time.perf_counter()) < until and not failures:
            try:
                call(pictures[next(turn) % len(pictures)])
            except Exception as error:
                failures.append(error)
            latencies.append(time.perf_counter() - start)

    threads = [threading.Thread(target=caller, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return latencies
