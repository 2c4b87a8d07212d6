"""Errors against budgets, how they are distributed, and where the largest one sits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape

from vitral import spec as specs
from vitral.v1 import model_pb2 as pb
from vitral_export import histogram
from vitral_export.cases import PHOTOGRAPHS
from vitral_export.numbers import Run, Setting
from vitral_export.precision.kinds import OWN
from vitral_export.report import chart
from vitral_export.report.chart import Mark, Place
from vitral_export.report.html import Column, Row, cell, code, count, number, percent, provider, share, table


def budgets(spec: pb.ModelSpec) -> str:
    """Both figures of every output of every graph."""
    unproven = specs.is_unproven(spec)
    own = OWN[spec.precision]

    def torch(value: float) -> float | None:
        return None if unproven else value

    names = ("budget used", "error", "budget") + (() if unproven else (own,))
    columns = [Column(name) for name in names]
    place = [item.name for item in spec.outputs].index
    groups = {
        f"{code(item.output)} <small>{escape(item.graph)}{_only(item.provider)}</small>": [
            _row(item, own, "relative L2", item.rel_l2, item.rel_l2_budget, torch(item.torch_rel_l2)),
            _row(item, own, "max abs", item.max_abs, item.max_abs_budget, torch(item.torch_max_abs)),
        ]
        for item in sorted(spec.proof.figures, key=lambda item: place(item.output))
    }
    name = "Largest error over all inputs and settings, and the largest budget"
    return table(name, "measure", columns, groups, kind="bars")


def _row(item: pb.Figure, own: str, measure: str, found: float, allowed: float, torch: float | None) -> Row:
    part, its = share(found, allowed), None if torch is None else share(torch, allowed)
    said = f"{item.output}, {item.graph}: {measure} uses {percent(part)} of its budget"
    drawn = chart.bar(part, its, said if its is None else f"{said}; {own} {percent(its)}")
    used = cell(f'<span class="used">{drawn}{percent(part)}</span>', kind="over" if part > 1 else "")
    numbers = (found, allowed) if torch is None else (found, allowed, torch)
    return Row(measure, [used, *(cell(number(value)) for value in numbers)])


def _only(name: str) -> str:
    return f", {escape(provider(name))}" if name else ""


def distributions(spec: pb.ModelSpec, runs: Sequence[Run]) -> str:
    """A histogram for every output of every graph."""
    own = OWN[spec.precision]
    return f'<div class="charts">{"".join(_distribution(mine, own) for mine in _groups(runs))}</div>'


def places(spec: pb.ModelSpec, runs: Sequence[Run]) -> str:
    """A map for every output of every graph: where the largest errors of its runs sit."""
    return f'<div class="charts maps">{"".join(_map(spec, mine) for mine in _groups(runs))}</div>'


def _groups(runs: Sequence[Run]) -> Iterator[list[Run]]:
    for output in dict.fromkeys(run.output for run in runs):
        mine = [run for run in runs if run.output == output]
        for graph in dict.fromkeys(run.graph for run in mine):
            yield [run for run in mine if run.graph == graph]


def _heading(run: Run) -> str:
    return f"<h3>{code(run.output)} <small>{escape(run.graph)}</small></h3>"


def _distribution(runs: Sequence[Run], own: str) -> str:
    counts = histogram.total(run.histogram for run in runs)
    marks = _marks([run for run in runs if run.errors.rms > 0], own)
    below = counts[0] / max(1, sum(counts))
    said = f"{count(sum(counts), 'element')} in {count(len(runs), 'run')}"
    drawn = chart.distribution(counts, marks)
    if below >= 0.005:
        said += f"; {percent(below)} under {number(histogram.edges(0)[1])} or exact"
    return f"<figure>{_heading(runs[0])}{drawn}<figcaption>{escape(said)}.</figcaption></figure>"


def _marks(runs: Sequence[Run], own: str) -> list[Mark]:
    if not runs:
        return []
    found = max(run.errors.max_abs / run.errors.rms for run in runs)
    torch = max(run.torch.max_abs / run.errors.rms for run in runs)
    allowed = min(run.budget.max_abs / run.errors.rms for run in runs)
    return [
        Mark("largest", found, "ink"),
        Mark(own if runs[0].against == "float64" else "between settings", torch, "torch", "2 3"),
        Mark("smallest budget", allowed, "limit", "6 3"),
    ]


def _map(spec: pb.ModelSpec, runs: Sequence[Run]) -> str:
    worst = max(runs, key=lambda run: run.errors.max_abs)
    where = _place(spec, worst)
    if worst.errors.max_abs == 0:
        return f"<figure>{_heading(worst)}<figcaption>No error at all.</figcaption></figure>"
    said = f"{number(worst.errors.max_abs)} in {_words(spec, worst)}"
    drawn = ""
    if where is not None:
        found = Counter(place for run in runs if (place := _place(spec, run)) is not None)
        most = max(found.values())
        grid = spec.architecture.grid
        drawn = chart.patches(
            grid.height,
            grid.width,
            {place: times / most for place, times in found.items()},
            where,
            front=len(specs.output(spec, worst.output).prefix_tokens),
            label=f"Patch grid of {worst.output}, {worst.graph}: the largest error is {said}",
        )
    return f"<figure>{_heading(worst)}{drawn}<figcaption>{escape(said)}.</figcaption></figure>"


def _place(spec: pb.ModelSpec, run: Run) -> Place | None:
    """The token of a run's largest error; None where the output has no patch tokens."""
    item, where = specs.output(spec, run.output), run.errors.where
    grid, front = spec.architecture.grid, len(item.prefix_tokens)
    if not specs.has_patches(item) or len(where) < 2:
        return None
    if where[1] < front:
        return Place(-1, where[1])
    row, column = divmod(where[1] - front, max(1, grid.width))
    return Place(row, column) if row < grid.height else None


def _words(spec: pb.ModelSpec, run: Run) -> str:
    where, place = run.errors.where, _place(spec, run)
    said = []
    if place is not None and place.row >= 0:
        said.append(f"the patch in row {place.row}, column {place.column} (token {where[1]})")
    elif place is not None:
        kind = pb.PrefixToken.Name(specs.output(spec, run.output).prefix_tokens[place.column])
        said.append(f"token {where[1]}, {kind.removeprefix('PREFIX_TOKEN_').replace('CLS', 'the CLS token')}")
    if len(where) > 1:
        said.append(f"feature {where[-1]}")
    return f"{', '.join(said)}, of {_input(run)}; {_setting(run.setting)}"


def _setting(item: Setting) -> str:
    threads = count(item.threads, "thread")
    return f"{provider(item.provider)}, level {item.level}, {threads}, batch {item.batch}"


def _input(run: Run) -> str:
    row = run.errors.where[0]
    if run.kind == "photographs" and row < len(PHOTOGRAPHS):
        return PHOTOGRAPHS[row]
    return f"{run.kind} {row}"
