"""What was measured, as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.serving.figures import Row
from benchmarks.serving.ways import LIMIT
from benchmarks.serving.workload import WORKLOADS

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
    """Where the server says that the time of a call went, mean milliseconds."""
    told = [row for row in rows if row.stages]
    names = list(told[0].stages) if told else []
    made = Table("workload", "way", "callers", *(name.replace("_", " ") for name in names))
    for row in told:
        figures = (f"{row.stages[name]:.2f}" for name in names)
        made.add_row(row.workload, row.way, _callers(row), *figures)
    return made


def show(rows: Sequence[Row], facts: Mapping[str, object], notes: Sequence[str]) -> None:
    """Prints everything."""
    console = Console()
    console.width = max(170, console.width)
    console.print(table(rows))
    if any(row.stages for row in rows):
        console.print(stages(rows))
    for name in dict.fromkeys(row.workload for row in rows):
        console.print(f"{name}: {WORKLOADS[name].title}", highlight=False)
    for note in notes:
        console.print(note, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    console.print("client and server share the cores of this machine", highlight=False)


def _callers(row: Row) -> str:
    return f"{row.arrivals:.0f}/s" if row.arrivals else str(row.callers or "")


def _said(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"
