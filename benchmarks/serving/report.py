"""What was measured, as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from benchmarks.serving.figures import Row
from benchmarks.serving.goals import Evidence, Goal, judged
from benchmarks.serving.ways import LIMIT
from benchmarks.serving.workload import WORKLOADS

QUIET = 0.25
"""Cores that other work may take beside figures that are worth something."""

_COLUMNS = (
    "workload", "way", "callers", "images/s", "rounds", "x limit", "p50 ms", "p95 ms", "p99 ms",
    "server CPU", "client CPU", "MiB", "kB wire", "others", "note",
)  # fmt: skip


def shares(rows: Sequence[Row]) -> dict[int, float]:
    """Images a second of each row as a share of its workload's limit, by the row's place."""
    limits = {row.workload: row.rate for row in rows if row.way == LIMIT}
    return {
        place: row.rate / limits[row.workload] for place, row in enumerate(rows) if row.workload in limits
    }


def table(rows: Sequence[Row]) -> Table:
    """Every row. CPU is seconds for 1,000 images; `others` are cores that other work took."""
    made, parts = Table(title_justify="left"), shares(rows)
    for column in _COLUMNS:
        made.add_column(column, justify="left" if column in ("workload", "way", "note") else "right")
    for place, row in enumerate(rows):
        latency = [_said(row.percentile(percent), 1) for percent in (50, 95, 99)]
        share = f"{parts[place]:.2f}" if place in parts else ""
        speed = (f"{row.rate:.0f}", f"{row.low:.0f}-{row.high:.0f}", share)
        cost = [_said(row.server_cpu, 2), _said(row.client_cpu or math.nan, 2)]
        wire = _said(row.wire_bytes / 1e3 or math.nan, 0)
        errors = ", ".join(f"{count} {kind}" for kind, count in row.errors.items())
        note = "; ".join(part for part in (row.note, errors) if part)
        rest = (_said(row.peak_mib or math.nan, 0), wire, _said(row.others, 2), note)
        made.add_row(row.workload, row.way, _callers(row), *speed, *latency, *cost, *rest)
    return made


def stages(rows: Sequence[Row]) -> Table:
    """Where the time of an image went as server and limit tell it, mean milliseconds on the clock."""
    told = [row for row in rows if row.stages]
    names = list(dict.fromkeys(name for row in told for name in row.stages))
    made = Table("workload", "way", "callers", *(name.replace("_", " ") for name in names))
    for row in told:
        figures = (_said(row.stages.get(name, math.nan), 2) for name in names)
        made.add_row(row.workload, row.way, _callers(row), *figures)
    return made


def verdicts(goals: Sequence[Goal]) -> Table:
    """Every goal that this run has a figure for."""
    made = Table("goal", "wanted", "figure", "", "note")
    for goal in goals:
        if goal.met is not None:
            said = "met" if goal.met else "missed"
            made.add_row(goal.what, goal.wanted, f"{goal.figure:.2f}", said, goal.note)
    return made


def show(found: Evidence, facts: Mapping[str, object], notes: Sequence[str]) -> None:
    """Prints everything."""
    rows, goals = found.rows, judged(found)
    console = Console()
    console.width = max(170, console.width)
    console.print(table(rows))
    if any(row.stages for row in rows):
        console.print(stages(rows))
    if any(goal.met is not None for goal in goals):
        console.print(verdicts(goals))
    for name in dict.fromkeys(row.workload for row in rows):
        console.print(f"{name}: {WORKLOADS[name].title}", highlight=False)
    if (others := max(row.others for row in rows)) > QUIET:
        console.print(f"other work took up to {others:.1f} cores: these figures judge nothing", style="red")
    for note in notes:
        console.print(note, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    console.print("client and server share the cores of this machine", highlight=False)


def _callers(row: Row) -> str:
    return f"{row.arrivals:.0f}/s" if row.arrivals else str(row.callers or "")


def document(found: Evidence, facts: Mapping[str, object], notes: Sequence[str]) -> dict[str, object]:
    """Everything, for JSON: what was not measured is null."""
    goals = [asdict(goal) | {"figure": None if goal.met is None else goal.figure} for goal in judged(found)]
    rows = [
        asdict(row) | {"limit_share": shares(found.rows).get(place)} for place, row in enumerate(found.rows)
    ]
    return {
        "machine": dict(facts),
        "notes": list(notes),
        "rows": rows,
        "startup": asdict(found.startup) if found.startup else None,
        "drift": asdict(found.drift) if found.drift else None,
        "goals": goals,
    }


def _said(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"
