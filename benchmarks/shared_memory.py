"""Shared memory beside messages, against the engine in process: images/s of W1 in one interleaved run.

    python -m benchmarks.shared_memory --seconds 2 --rounds 3

One image a call or a message: the engine takes one picture after the other, the server has several callers,
or one stream with as many pictures under way. The first answers of each way are held against the engine's
before it is measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.serving import measure, models, rounds
from benchmarks.serving.figures import Row, summary
from benchmarks.serving.measure import Task
from benchmarks.serving.ways import SHARED, SHARED_STREAM, STREAM, VITRAL, find
from benchmarks.serving.workload import WORKLOADS

_WORKLOADS = ("W1", "W1-half")


def rows(task: Task, *, callers: int, seconds: float, times: int) -> list[Row]:
    """The engine, messages and shared memory on one workload."""
    with ExitStack() as stack:
        turns: list[rounds.Turn] = [partial(measure.engine, task, seconds=seconds)]
        for name in (VITRAL, SHARED, STREAM, SHARED_STREAM):
            up = stack.enter_context(measure.served(find(name), task))
            turns.append(partial(up.run, callers=callers, seconds=seconds))
        return [summary(one) for one in rounds.rotated(turns, times)]


def table(found: Sequence[Row]) -> Table:
    """One line a way; the first of each workload is the engine."""
    made = Table(
        "workload", "way", "images/s", "rounds", "x engine", "server CPU ms", "client CPU ms", "kB wire"
    )
    engine = 1.0
    for row in found:
        engine = row.rate if row.callers == 1 else engine
        spread, cpu = f"{row.low:.0f}-{row.high:.0f}", (f"{row.server_cpu:.2f}", f"{row.client_cpu:.2f}")
        name = "engine" if row.callers == 1 else f"{row.way}, {row.callers} callers"
        ratio, wire = f"{row.rate / engine:.2f}", f"{row.wire_bytes / 1e3:.1f}"
        made.add_row(row.workload, name, f"{row.rate:.0f}", spread, ratio, *cpu, wire)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repo", type=Path, default=models.DEFAULT_REPO, help="where exported models are kept"
    )
    parser.add_argument(
        "--callers", type=int, default=8, help="threads that call, or pictures of a stream (default: 8)"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of a run (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    args = parser.parse_args(argv)
    if args.callers < 2:
        parser.error(f"{args.callers} callers: the engine has one, the server at least 2")
    first, *_ = workloads = [WORKLOADS[name] for name in _WORKLOADS]
    models.make(args.repo, workloads)
    with tempfile.TemporaryDirectory() as folder:
        task = measure.prepare(first, args.repo.resolve(), Path(folder))
        found = [
            row
            for workload in workloads  # the pictures are the same, and so is the truth
            for row in rows(
                replace(task, workload=workload),
                callers=args.callers,
                seconds=args.seconds,
                times=args.rounds,
            )
        ]
    print(file=sys.stderr)
    Console(width=120).print(table(found))
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
