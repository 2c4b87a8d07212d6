"""The serving benchmark: vitral's server beside its limit and its peers, in one interleaved run.

    python -m benchmarks.serving --workloads W1,W2 --ways vitral,plain --callers 1,8,64

Every way's first answers are held against the engine's before it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.serving import drift, measure, models, plot, report, rounds, startup
from benchmarks.serving.figures import Row
from benchmarks.serving.goals import Evidence
from benchmarks.serving.vitral_way import VitralWay
from benchmarks.serving.way import Way
from benchmarks.serving.ways import FAST, LOOP, VITRAL, find
from benchmarks.serving.ways import ways as known
from benchmarks.serving.workload import WORKLOADS, Workload


def chosen(args: argparse.Namespace) -> tuple[list[Way], list[str]]:
    """The ways to measure, and what is said of those that are missing."""
    ways: list[Way] = []
    notes: list[str] = []
    for name in every(args.ways):
        if name == LOOP:
            continue
        way = find(name)
        if lacks := way.missing():
            notes.append(f"{name} is missing: {lacks}")
            continue
        if way.title != name:
            notes.append(f"{name}: {way.title}")
        if isinstance(way, VitralWay):
            ways.append(replace(way, args=(*way.args, *shlex.split(args.server_args))))
        else:
            ways.append(way)
    for told in args.variant:
        label, _, flags = told.partition("=")
        ways.append(VitralWay(f"{VITRAL}+{label}", args=tuple(shlex.split(flags))))
    for told in args.tree:
        label, _, path = told.partition("=")
        flags = tuple(shlex.split(args.server_args))
        ways.append(VitralWay(f"{VITRAL}+{label}", args=flags, tree=Path(path).resolve()))
    return ways, notes


def every(names: Sequence[str]) -> list[str]:
    """These names, or where one of them is `all`, all there are."""
    return [LOOP, *known()] if "all" in names else list(names)


def _workloads(text: str) -> list[Workload]:
    names = list(WORKLOADS) if text == "all" else text.split(",")
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise argparse.ArgumentTypeError(f"unknown workload {unknown[0]}; known are {', '.join(WORKLOADS)}")
    return [WORKLOADS[name] for name in names]


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--workloads", type=_workloads, default="W1,W1-half,W2", help="default: W1,W1-half,W2; or all")
    add("--ways", type=_names, default="vitral,loop,plain", help="default: vitral,loop,plain; or all")
    add("--callers", type=_numbers, default="8", help="numbers of callers (default: 8)")
    add("--seconds", type=float, default=2.0, help="of a run (default: 2)")
    add("--rounds", type=int, default=3, help="default: 3")
    add("--open-loop", action="store_true", help="also at a fixed rate, 70 %% of each way's peak")
    add("--startup", action="store_true", help="also the time to readiness and the memory then")
    add("--no-limit", action="store_true", help="leave out what one process does without RPC")
    add("--server-args", default="", help="further flags of vitral-server")
    variant = "also vitral with these flags, as vitral+NAME; may be repeated"
    add("--variant", action="append", default=[], metavar="NAME=FLAGS", help=variant)
    tree = "also another checkout's vitral, server and client, as vitral+NAME; may be repeated"
    add("--tree", action="append", default=[], metavar="NAME=FOLDER", help=tree)
    add("--repo", type=Path, default=models.DEFAULT_REPO, help="where exported models are kept")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--plot", type=Path, metavar="FILE", help="draw it, as a PNG")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    args = parser().parse_args(argv)
    ways, notes = chosen(args)
    models.make(args.repo, [*args.workloads, *([WORKLOADS["W1"]] if args.startup else [])])
    extent = rounds.Extent(args.callers, args.seconds, args.rounds, args.open_loop)
    found = evidence(args, ways, extent)
    facts = machine() | {"load": f"{os.getloadavg()[0]:.1f}", "date": f"{date.today()}"}
    report.show(found, facts, notes)
    if args.json:
        args.json.write_text(json.dumps(report.document(found, facts, notes), indent=1))
    if args.plot:
        plot.draw(found.rows, args.plot)
    return 0


def evidence(args: argparse.Namespace, ways: Sequence[Way], extent: rounds.Extent) -> Evidence:
    """Measures everything that was asked for."""
    rows: list[Row] = []
    begun = apart = None
    repo = args.repo.resolve()
    vitral = next((way for way in ways if way.name == VITRAL), None)
    fast = next((way for way in ways if way.name == FAST), None)
    with tempfile.TemporaryDirectory() as name:
        for workload in args.workloads:
            task = measure.prepare(workload, repo, Path(name))
            rows += rounds.run(task, ways, extent, limit=not args.no_limit, loop=LOOP in every(args.ways))
            if workload.name == "W3" and vitral and fast:
                apart = drift.measure(vitral, fast, task)
        if args.startup and isinstance(vitral, VitralWay):
            begun = startup.measure(vitral, repo, WORKLOADS["W1"], Path(name))
    return Evidence(rows, begun, apart)


if __name__ == "__main__":
    sys.exit(main())
