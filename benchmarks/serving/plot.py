"""Pictures of a run: images a second as shares of the limit, and the latencies of its open loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.figures import Row
from benchmarks.serving.goals import CALLERS
from benchmarks.serving.report import shares
from benchmarks.serving.ways import LIMIT

_COLUMNS = 3
"""Panels of open loops beside each other."""

_LAST = 99.9
"""Percentile at which a curve ends: the one call that was slowest says little."""


def draw(rows: Sequence[Row], file: Path) -> None:
    """Writes a PNG: bars, and below them a panel for each workload that has open loops."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    late = [row for row in rows if row.arrivals and row.latency]
    workloads = list(dict.fromkeys(row.workload for row in late))
    lines, columns = -(-len(workloads) // _COLUMNS), min(max(len(workloads), 1), _COLUMNS)
    figure = Figure(figsize=(14, 5 + 4.5 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + lines, columns)
    # One colour a way, in every panel.
    colours = {way: f"C{place}" for place, way in enumerate(dict.fromkeys(row.way for row in rows))}
    _bars(figure.add_subplot(grid[0, :]), rows, colours)
    for place, workload in enumerate(workloads):
        line, column = divmod(place, _COLUMNS)
        panel = figure.add_subplot(grid[1 + line, column])
        _curves(panel, [row for row in late if row.workload == workload], colours)
        if not column:
            panel.set_ylabel("ms from the scheduled arrival")
    figure.savefig(file, dpi=110)


def _bars(axes: Any, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    parts = {(rows[place].way, rows[place].workload): share for place, share in _shown(rows).items()}
    names = list(dict.fromkeys(way for way, _ in parts))
    workloads = list(dict.fromkeys(workload for _, workload in parts))
    width = 0.8 / max(len(names), 3)
    for index, way in enumerate(names):
        shown = [(place, parts[way, name]) for place, name in enumerate(workloads) if (way, name) in parts]
        left = [place + (index - (len(names) - 1) / 2) * width for place, _ in shown]
        bars = axes.bar(left, [share for _, share in shown], width, label=way, color=colours[way])
        axes.bar_label(bars, fmt="%.2f", fontsize=7, rotation=90, padding=2)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(workloads)), workloads)
    axes.set_ylabel("images/s, share of the limit (no RPC)")
    axes.margins(y=0.12)
    axes.set_title(f"{CALLERS} callers, client and server on the same cores", fontsize=10)
    if names:
        axes.legend(fontsize=8)


def _shown(rows: Sequence[Row]) -> dict[int, float]:
    """Shares of the closed loops that are drawn, by the row's place: those of eight callers, or of none."""
    every = shares(rows)
    return {
        place: share
        for place, share in every.items()
        if rows[place].way != LIMIT and not rows[place].arrivals and rows[place].callers in (0, CALLERS)
    }


def _curves(axes: Any, late: Sequence[Row], colours: Mapping[str, str]) -> None:
    for row in late:
        points = [(percent, value) for percent, value in sorted(row.latency.items()) if percent <= _LAST]
        # Each further nine is as far from the one before as that from its own.
        axes.plot(
            [1 / (1 - percent / 100) for percent, _ in points],
            [value for _, value in points],
            label=row.way,
            color=colours[row.way],
        )
    ticks = (50, 90, 99, 99.9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1 / (1 - percent / 100) for percent in ticks], [f"{percent:g} %" for percent in ticks])
    axes.minorticks_off()
    axes.set_xlabel("calls answered")
    axes.set_title(f"{late[0].workload}, open loop at 70 % of each way's peak", fontsize=8)
