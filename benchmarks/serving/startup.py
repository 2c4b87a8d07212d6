"""From the start of the server to its first answer, and what it holds in memory then."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.serving import pictures
from benchmarks.serving.vitral_way import VitralWay
from benchmarks.serving.workload import Workload


@dataclass(frozen=True)
class Startup:
    """Medians of some starts.

    Attributes:
        ready_s: seconds from the process's start to its word that it serves.
        answered_s: to the first answer, which ends when a client has it.
        resident_mib: memory when it is ready.
        used_mib: memory after every picture has been embedded once.
    """

    ready_s: float
    answered_s: float
    resident_mib: float
    used_mib: float


def measure(way: VitralWay, repo: Path, workload: Workload, folder: Path, *, starts: int = 3) -> Startup:
    """Starts the server so many times, and once more before: files are in memory then."""
    every = pictures.load(pictures.draw(folder, workload))
    found = []
    for number in range(starts + 1):
        begin = time.perf_counter()
        with way.start(repo, workload) as running:
            ready = time.perf_counter() - begin
            resident = processes.resident_mib(running.pids)
            with way.caller(running.address, workload) as call:
                call(every[0])
                answered = time.perf_counter() - begin
                for picture in every:
                    call(picture)
            used = processes.resident_mib(processes.family(running.pids[0]))
        if number:
            found.append((ready, answered, resident, used))
    return Startup(*(statistics.median(values) for values in zip(*found, strict=True)))
