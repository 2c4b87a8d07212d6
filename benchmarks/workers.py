"""Images a second by number of server processes behind one port: the scaling curve of `--workers`.

One 224 x 224 picture of uint8 pixels a call through the ViT-B/16 patch embedding. The callers are processes
with one connection each, so that no client is the ceiling. All settings are measured in one run, in rounds.

    python -m benchmarks.workers
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.workers_callers import Answer, Order, call

DTYPES = ("float32", "float16")
CALLERS = (8, 32)
PROCESSES = 8
WARM = 0.4
"""Seconds of calling before a measurement."""

_SPAWN = multiprocessing.get_context("spawn")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        dtype: element type of the replies.
        callers: calls at the same time.
        workers: server processes.
        images_per_s: images answered by wall time.
        p50_ms, p99_ms: latencies.
        server_cpu, client_cpu: processor seconds for 1,000 images.
        busiest: part of the workers' processor time that the busiest one took.
        pss_mib: memory of all server processes, shared pages counted once.
    """

    dtype: str
    callers: int
    workers: int
    images_per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu: float
    client_cpu: float
    busiest: float
    pss_mib: float


@dataclass(frozen=True)
class Server:
    """A server that is ready: its address, the processes that answer, and the one that watches them."""

    address: str
    answering: tuple[int, ...]
    watching: tuple[int, ...]


@contextmanager
def served(repo: Path, workers: int) -> Iterator[Server]:
    """A server of so many processes, ended on the way out."""
    flags = ("--device", "cpu", "--port", "0", "--drain-delay", "0", "--workers", str(workers))
    command = [sys.executable, "-m", "vitral_server", "--repo", str(repo), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                raise SystemExit(f"the server ended with exit code {server.wait()} before it was ready")
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            below = tuple(int(pid) for pid in children)
            yield Server(json.loads(line)["address"], below or (server.pid,), (server.pid,) if below else ())
        finally:
            server.terminate()
            server.wait(60)


@contextmanager
def calling(address: str) -> Iterator[list[Connection]]:
    """The processes of callers, connected."""
    with ExitStack() as stack:
        pipes = []
        for seed in range(PROCESSES):
            ours, theirs = _SPAWN.Pipe()
            process = _SPAWN.Process(target=call, args=(address, seed, theirs), daemon=True)
            process.start()
            stack.callback(process.join, 30)
            stack.callback(ours.send, None)
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        yield pipes


def measure(server: Server, pipes: Sequence[Connection], dtype: str, callers: int, seconds: float) -> Cell:
    """Calls from all processes at the same time."""
    start = time.monotonic() + WARM
    for pipe in pipes:
        pipe.send(Order(dtype, callers // len(pipes), start, seconds))
    time.sleep(start - time.monotonic())
    before = [cpu_seconds(pid) for pid in server.answering]
    time.sleep(start + seconds - time.monotonic())
    spent = [cpu_seconds(pid) - was for pid, was in zip(server.answering, before, strict=True)]
    answers: list[Answer] = [pipe.recv() for pipe in pipes]
    latencies = [latency for answer in answers for latency in answer.latencies]
    thousands = len(latencies) / 1e3
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    return Cell(
        dtype,
        callers,
        len(server.answering),
        images_per_s=len(latencies) / seconds,
        p50_ms=float(p50),
        p99_ms=float(p99),
        server_cpu=sum(spent) / thousands,
        client_cpu=sum(answer.cpu for answer in answers) / thousands,
        busiest=max(spent) / sum(spent),
        pss_mib=sum(pss_mib(pid) for pid in (*server.answering, *server.watching)),
    )


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def pss_mib(pid: int) -> float:
    """Memory of a process; a page that several share counts for its part."""
    found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def run(repo: Path, workers: Sequence[int], *, seconds: float, rounds: int) -> list[Cell]:
    """Every cell once a round."""
    cells = []
    for _, count in itertools.product(range(rounds), workers):
        with served(repo, count) as server, calling(server.address) as pipes:
            for dtype, callers in itertools.product(DTYPES, CALLERS):
                cells.append(measure(server, pipes, dtype, callers, seconds))
    return cells


def medians(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each setting: the median of each figure over the rounds."""
    groups: dict[tuple[str, int, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.dtype, cell.callers, cell.workers), []).append(cell)
    figures = list(asdict(cells[0]))[3:]
    return [
        Cell(*key, *(float(np.median([getattr(cell, name) for cell in group])) for name in figures))
        for key, group in sorted(groups.items(), key=lambda item: (item[0][0] != DTYPES[0], *item[0][1:]))
    ]


def show(cells: Sequence[Cell], facts: Mapping[str, object]) -> None:
    """The table."""
    table = Table(title="ViT-B/16 patch embedding, 224 x 224 pixels a call, by server processes")
    titles = ("reply", "callers", "workers", "images/s", "x one", "p50 ms", "p99 ms")
    for title in (*titles, "server s/1000", "client s/1000", "busiest", "PSS MiB"):
        table.add_column(title, justify="left" if title == "reply" else "right")
    one = {(cell.dtype, cell.callers): cell.images_per_s for cell in cells if cell.workers == 1}
    for cell in cells:
        ratio = cell.images_per_s / one.get((cell.dtype, cell.callers), np.nan)
        figures = (cell.images_per_s, ratio, cell.p50_ms, cell.p99_ms, cell.server_cpu, cell.client_cpu)
        said = [f"{value:.{digits}f}" for value, digits in zip(figures, (0, 2, 1, 1, 2, 2), strict=True)]
        last = (f"{cell.busiest:.0%}", f"{cell.pss_mib:.0f}")
        table.add_row(cell.dtype, str(cell.callers), str(cell.workers), *said, *last)
    console = Console()
    console.width = max(120, console.width)
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    console.print(f"{PROCESSES} client processes share the cores of this machine", highlight=False)


def main() -> int:
    """Runs the benchmark."""
    from benchmarks.base_model import export
    from benchmarks.machine import machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes")
    parser.add_argument("--seconds", type=float, default=2.5, help="time of a measurement (default: 2.5)")
    parser.add_argument("--rounds", type=int, default=1, help="times each is made (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repo", type=Path, help="repository that holds the model already, and no other")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repo = args.repo or Path(folder) / "models"
        if args.repo is None:
            export(repo)
        cells = run(repo, args.workers, seconds=args.seconds, rounds=args.rounds)
    if args.json:
        print(json.dumps({"machine": machine(), "cells": [asdict(cell) for cell in cells]}, indent=2))
    else:
        show(medians(cells), machine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
