"""Runs the golden inputs on the provider in use and holds the outputs against their budgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vitral import spec as specs
from vitral.errors import ProofError
from vitral.tensors import Array, view
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine.artifact import Artifact
from vitral_engine.goldens import Goldens, load
from vitral_engine.measure import Budget, Errors, errors
from vitral_engine.placement import TENSORRT, Placement
from vitral_engine.session import LEVELS, GraphSession, SessionOptions

BATCHES = (1, 2, 3, 7, 8, 16)
"""Batch sizes of a full replay; none of them is the one that was traced."""

TENSORRT_GRANT = 2.0
"""How many times the general budget TensorRT is granted where the proof has none for it.

It picks kernels by timing them on the machine that serves, so that sums are taken in another order from
engine to engine. All of them are float32; TF32 and half precision are a hundred times over.
"""


@dataclass(frozen=True)
class ReplayRow:
    """One output of one graph in one setting, against its budget.

    `size` is the height and width of the images, `160 x 384`, where they are not the native ones.
    """

    graph: str
    output: str
    provider: str
    level: str
    threads: int
    batch: int
    rel_l2: float
    max_abs: float
    rel_l2_budget: float
    max_abs_budget: float
    size: str = ""
    cosine_gap: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether both errors are within budget; NaN never is."""
        return self.rel_l2 <= self.rel_l2_budget and self.max_abs <= self.max_abs_budget

    def __str__(self) -> str:
        """One line with the figures."""
        at = f" at {self.size}" if self.size else ""
        return (
            f"{self.graph} {self.output}{at} on {self.provider}, level {self.level}, {self.threads} threads, "
            f"batch {self.batch}: relative L2 {self.rel_l2:.2e} (budget {self.rel_l2_budget:.2e}), "
            f"max abs {self.max_abs:.2e} (budget {self.max_abs_budget:.2e})"
        )


def replay(
    artifact: Artifact,
    placements: Sequence[Placement],
    *,
    levels: Iterable[str] = tuple(LEVELS),
    threads: Iterable[int] = (1, 2),
    batches: Sequence[int] = BATCHES,
) -> list[ReplayRow]:
    """Replays every graph in every combination of placement, level, thread count and batch size."""
    goldens = load(artifact.folder, artifact.spec)
    settings = [(place, level, count) for place in placements for level in levels for count in threads]
    rows = []
    for graph in artifact.spec.graphs:
        for place, level, count in settings:
            options = SessionOptions(threads=count, level=level)
            file = artifact.folder / graph.file
            session = GraphSession(file, graph, artifact.spec, placement=place, options=options)
            rows += replay_session(session, artifact.spec, goldens, options=options, batches=batches)
    return rows


def replay_session(
    session: GraphSession,
    spec: pb.ModelSpec,
    goldens: Goldens,
    *,
    options: SessionOptions,
    batches: Sequence[int],
    alone: bool = True,
) -> list[ReplayRow]:
    """Replays one open session at these batch sizes; larger batches repeat the golden rows.

    Goldens of other image sizes are replayed as they are, in one batch each.
    """
    count = options.threads if alone else options.crowd
    rows = []
    sized = [("", goldens, batches)]
    for (height, width), other in goldens.sized.items():
        sized.append((f"{height} x {width}", other, (len(other.inputs[session.graph.file]),)))
    for size, known, wanted in sized:
        for batch in wanted:
            setting = (session.placement.provider, options.level, count, batch)
            for name, found, allowed in _compared(session, spec, known, batch, alone=alone):
                measured = (found.rel_l2, found.max_abs, *allowed)
                rows.append(ReplayRow(session.graph.file, name, *setting, *measured, size, found.cosine_gap))
    return rows


def _compared(
    session: GraphSession, spec: pb.ModelSpec, goldens: Goldens, batch: int, *, alone: bool
) -> Iterator[tuple[str, Errors, tuple[float, float]]]:
    """Every output of one run of golden rows, with its errors and what is allowed."""
    graph = session.graph
    golden = goldens.inputs[graph.file]
    pick = np.arange(batch) % len(golden)
    got = session.run(np.ascontiguousarray(golden[pick]), alone=alone)
    for name in graph.outputs:
        allowed = budget_of(spec, graph.file, name, session.placement.provider)
        array = _numbers(got[name], specs.output(spec, name).dtype)
        found = errors(array, goldens.outputs[graph.file, name][pick])
        yield name, found, (allowed.rel_l2, allowed.max_abs)


def _numbers(array: Array, dtype: int) -> Array:
    """An output as numbers; bfloat16 comes as its bits."""
    return view(array.tobytes(), dtype, array.shape) if dtype == tensor_pb2.DATA_TYPE_BFLOAT16 else array


def demand(rows: Iterable[ReplayRow], *, model: str) -> None:
    """Refuses a replay in which any row is over budget.

    Raises:
        ProofError: with the first such row and their number.
    """
    wrong = [row for row in rows if not row.ok]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ProofError(f"model {model} does not agree with its proof here: {wrong[0]}{more}")


def budget_of(spec: pb.ModelSpec, graph: str, output: str, provider: str) -> Budget:
    """The budget of an output on a provider: its own, or the one that holds for all, doubled for TensorRT.

    Where the proof ran on other providers only, each with a budget of its own, the widest of them: in float16
    that is three times the error of PyTorch's own half.

    Raises:
        ProofError: the proof has none.
    """
    fitting = [item for item in spec.proof.figures if (item.graph, item.output) == (graph, output)]
    for name in (provider, ""):
        for figure in (item for item in fitting if item.provider == name):
            grant = TENSORRT_GRANT if provider == TENSORRT and not name else 1.0
            return Budget(grant * figure.rel_l2_budget, grant * figure.max_abs_budget)
    if fitting:
        widest = (
            max(item.rel_l2_budget for item in fitting),
            max(item.max_abs_budget for item in fitting),
        )
        return Budget(*widest)
    raise ProofError(f"the proof of model {spec.name} has no budget for {output} of {graph} on {provider}")
