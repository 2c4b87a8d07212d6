"""Where the model agrees with float64: by batch, optimisation level, threads and kind of input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from vitral_export.numbers import Run
from vitral_export.report.html import Column, Row, cell, code, count, provider, shade, share, table

_Measure = Callable[[Run], float]
_Cell = tuple[Column, _Measure]


def by_batch(runs: Sequence[Run]) -> str:
    """Worst relative L2 of every batch size."""
    return _matrix("By batch size: worst relative L2 error", runs, lambda run: [(_batch(run), relative)])


def by_level(runs: Sequence[Run]) -> str:
    """Worst relative L2 of every optimisation level and thread count."""
    name = "By graph optimisation level and threads: worst relative L2 error"
    return _matrix(name, runs, lambda run: [(_level(run), relative)])


def by_kind(runs: Sequence[Run]) -> str:
    """Both worst errors of every kind of input."""
    name = "By kind of input: worst relative L2 and worst absolute error"
    return _matrix(
        name,
        runs,
        lambda run: [(Column("relative L2", run.kind), relative), (Column("max abs", run.kind), largest)],
    )


def against_alone(runs: Sequence[Run]) -> str:
    """How far rows of a batch are from the same rows run one at a time."""
    name = "A batch of N against N of one: the larger of both errors; 0 % is equal bit for bit"
    several = [run for run in runs if run.setting.batch > 1]
    return _matrix(name, several, lambda run: [(_batch(run), apart)])


def relative(run: Run) -> float:
    """The relative L2 error as a part of its budget."""
    return share(run.errors.rel_l2, run.budget.rel_l2)


def largest(run: Run) -> float:
    """The largest absolute error as a part of its budget."""
    return share(run.errors.max_abs, run.budget.max_abs)


def apart(run: Run) -> float:
    """The larger of both errors against the same rows run alone, as a part of its budget."""
    return max(share(run.alone.rel_l2, run.budget.rel_l2), share(run.alone.max_abs, run.budget.max_abs))


def used(run: Run) -> float:
    """The larger of both errors as a part of its budget."""
    return max(relative(run), largest(run))


def _batch(run: Run) -> Column:
    return Column(str(run.setting.batch), "batch size")


def _level(run: Run) -> Column:
    return Column(count(run.setting.threads, "thread"), run.setting.level)


def _matrix(name: str, runs: Sequence[Run], cells: Callable[[Run], Sequence[_Cell]]) -> str:
    """The largest measure of every column by output, graph and provider. `cells`: what a run counts for."""
    worst: dict[str, dict[tuple[str, str], dict[Column, float]]] = {}
    columns: dict[Column, None] = {}
    for run in runs:
        mine = worst.setdefault(run.output, {}).setdefault((run.graph, run.setting.provider), {})
        for column, measure in cells(run):
            columns[column] = None
            mine[column] = max(mine.get(column, 0.0), measure(run))
    groups = {
        code(output): [
            Row(
                escape(f"{graph}, {provider(place)}"),
                [shade(mine[column]) if column in mine else cell("") for column in columns],
            )
            for (graph, place), mine in rows.items()
        ]
        for output, rows in worst.items()
    }
    return table(name, "graph, provider", list(columns), groups, kind="shares") if groups else ""
