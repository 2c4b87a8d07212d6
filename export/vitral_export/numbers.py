"""The numeric net: every graph, run through the engine that will serve it, against float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitral.errors import ProofError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine.device import Placement
from vitral_engine.measure import Budget, Errors, errors
from vitral_engine.replay import BATCHES
from vitral_engine.session import LEVELS, GraphSession, SessionOptions
from vitral_export import histogram, progress
from vitral_export.truth import Reference

THREADS = (1, 2)
"""Thread counts that are run."""

SIZED = (("disabled", THREADS[0]), ("all", THREADS[-1]))
"""Levels and thread counts in which other image sizes than the native one are run."""

TOLERANCE = 2.0**-20
"""Errors above this many rms of the output are counted, per million elements."""


@dataclass(frozen=True)
class Setting:
    """How a graph was run."""

    provider: str
    level: str
    threads: int
    batch: int

    def __str__(self) -> str:
        """As it stands in messages."""
        return f"{self.provider}, level {self.level}, {self.threads} threads, batch {self.batch}"


@dataclass(frozen=True)
class Run:
    """One output of one graph on rows of one kind, in one setting.

    Attributes:
        errors: distance from float64.
        alone: distance from the same rows run one at a time.
        torch: the same distance of torch float32, which sets the budget.
        over: elements over `TOLERANCE`, per million.
        histogram: elements by absolute error in rms of the output, in the bins of `vitral_export.histogram`.
        against: what the errors are off, for messages.
    """

    graph: str
    output: str
    kind: str
    setting: Setting
    errors: Errors
    alone: Errors
    torch: Errors
    over: float
    histogram: histogram.Counts
    budget: Budget
    against: str = "float64"

    @property
    def problem(self) -> str:
        """What is wrong, in a sentence; empty when nothing is."""
        for found, what in (
            (self.errors, f"off {self.against}"),
            (self.alone, "off the same rows run alone"),
        ):
            if not self.budget.holds(found):
                return (
                    f"{self.graph}: {self.output} of {self.kind} on {self.setting} is {what} by relative L2 "
                    f"{found.rel_l2:.2e} (budget {self.budget.rel_l2:.2e}) and at most {found.max_abs:.2e} "
                    f"(budget {self.budget.max_abs:.2e}) at {found.where}"
                )
        return ""


def check(
    folder: Path, graph: pb.Graph, spec: pb.ModelSpec, reference: Reference, placements: Sequence[Placement]
) -> Iterator[Run]:
    """Runs a graph at every placement, level, thread count and batch size, one after the other.

    Raises:
        ProofError: it does not open or run in one of them.
    """
    settings = list(product(placements, LEVELS, THREADS))
    known: dict[str, _Known] = {}
    for placement, level, threads in progress.each(f"runs of {graph.file}", settings):
        options = SessionOptions(threads=threads, level=level)
        try:
            # Without a name, which would keep it, and all its weights, until the next one is open.
            yield from _setting_runs(
                GraphSession(folder / graph.file, graph, spec, placement=placement, options=options),
                options,
                reference.on(placement.provider),
                known.setdefault(placement.provider, {}),
            )
        except Exception as error:  # onnxruntime raises classes of its own for every fault
            said = " ".join(str(error).split())[:300]
            where = f"{placement.provider}, level {level}, {threads} threads"
            raise ProofError(f"numbers: {graph.file} does not run on {where}: {said}") from error


def demand(runs: Sequence[Run]) -> None:
    """Refuses runs over budget.

    Raises:
        ProofError: with the first such run and their number.
    """
    problems = [run.problem for run in runs if run.problem]
    if problems:
        more = f" (and {len(problems) - 1} of {len(runs) - 1} more)" if len(problems) > 1 else ""
        raise ProofError(f"numbers: {problems[0]}{more}")


_Known = dict[tuple[str, str], tuple[Array, Run]]
"""(output, kind) to the last rows that were measured, equal to those run alone, and what came of it."""


def _setting_runs(
    session: GraphSession, options: SessionOptions, reference: Reference, known: _Known
) -> Iterator[Run]:
    """Every batch size at the native size, and in some settings the other image sizes too."""
    yield from _session_runs(session, options, reference, known, BATCHES)
    if (options.level, options.threads) in SIZED:
        for other in reference.others.values():
            yield from _session_runs(session, options, other, known, (1, len(other.cases.rows)))


def _session_runs(
    session: GraphSession,
    options: SessionOptions,
    reference: Reference,
    known: _Known,
    batches: Sequence[int],
) -> Iterator[Run]:
    alone = sweep(session, reference.cases.rows, batch=1)
    for batch in batches:
        got = alone if batch == 1 else sweep(session, reference.cases.rows, batch=batch)
        setting = Setting(session.placement.provider, options.level, options.threads, batch)
        for name in session.graph.outputs:
            for kind, rows in reference.cases.kinds.items():
                mine, by_one = got[name][rows], alone[name][rows]
                last = known.get((name, kind))
                same = np.array_equal(mine, by_one)
                if same and last is not None and np.array_equal(mine, last[0]):
                    yield replace(last[1], setting=setting)  # equal bits, equal figures
                    continue
                truth = reference.truth[name][rows]
                found, gap = errors(mine, truth), mine - truth
                run = Run(
                    graph=session.graph.file,
                    output=name,
                    kind=kind,
                    setting=setting,
                    errors=found,
                    alone=_apart(mine, by_one, found.rms),
                    torch=reference.torch[name, kind],
                    over=_over(gap, truth),
                    histogram=histogram.count(gap, found.rms),
                    budget=reference.budget(name, kind),
                    against=reference.against,
                )
                if same:
                    known[name, kind] = mine, run
                yield run


def sweep(session: GraphSession, rows: Array, *, batch: int) -> dict[str, Array]:
    """Every row once, in batches of exactly this size; the last one is filled with the first rows."""
    count = len(rows)
    parts: dict[str, list[Array]] = {name: [] for name in session.graph.outputs}
    for start in range(0, count, batch):
        pick = np.arange(start, start + batch) % count
        got = session.run(np.ascontiguousarray(rows[pick]))
        for name, array in got.items():
            parts[name].append(array[: min(batch, count - start)])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _apart(got: Array, alone: Array, rms: float) -> Errors:
    """Distance from the rows run alone; of equal ones, which most are, nothing has to be measured."""
    if np.array_equal(got, alone):
        return Errors(0.0, 0.0, (0,) * got.ndim, 0.0, 0.0, rms)
    return errors(got, alone.astype(np.float64))


def _over(gap: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    limit = TOLERANCE * float(np.sqrt(np.mean(truth**2)))
    return float(np.mean(~(np.abs(gap) <= limit))) * 1e6
