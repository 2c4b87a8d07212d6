"""What a graph should give, in float64 from its input on, and how far torch's own float32 is from that."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitral.errors import ProofError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine.measure import Budget, Errors, budget, errors
from vitral_engine.preprocess import Preprocessor
from vitral_export import structure
from vitral_export.cases import Cases
from vitral_export.fold import CENTRE, SUFFIX, plan
from vitral_export.wrap import Inference

_ROUNDING = 4
"""What the folded form may be off in float32, in units of the floor of a budget.

Weights of few bits (halves, say) make exact products with pixels of -1 and 1, which float32 then adds without
any error; folded they have all their bits. In float64 the folded form is held to the budget as it is.
"""


@dataclass(frozen=True)
class Reference:
    """Truth and budgets of one graph on its cases.

    Attributes:
        cases: the inputs.
        truth: output to float64 values (R, ...).
        torch: (output, kind) to the errors of torch float32 in the same form.
        against: what the truth is, for messages.
    """

    cases: Cases
    truth: dict[str, NDArray[np.float64]]
    torch: dict[tuple[str, str], Errors]
    against: str = "float64"

    def budget(self, output: str, kind: str) -> Budget:
        """What is allowed for this output on rows of this kind."""
        return budget(self.torch[output, kind])


def reference(wrapped: Inference, graph: pb.Graph, spec: pb.ModelSpec, cases: Cases) -> Reference:
    """Runs the module in float64 and in float32 on the rows of a graph.

    Raises:
        ProofError: the module's own output is not finite, not of the promised shape, or another every time.
    """
    with one_thread():
        wide, rows = copy.deepcopy(wrapped).double(), _wide(cases.rows, graph, spec)
        truth = _run(wide, rows, graph)
        _demand_same(_run(wide, rows[:1], graph), truth)
        if not graph.input.folded:
            return Reference(cases, truth, _errors(_run(wrapped, cases.rows, graph), truth, cases))
        plain = _run(wrapped, Preprocessor(spec.preprocessing).normalise(cases.rows), graph)
        centred = _nchw(cases.rows).astype(np.float32) - CENTRE
        form = _folded(wrapped, spec)
        folded = _run(form, centred, graph)
        exact = _run(form.double(), centred.astype(np.float64), graph)  # in place: folded is done with
    unfolded = _errors(plain, truth, cases)
    _demand_folding(_errors(exact, truth, cases), unfolded, grant=1)
    own = _errors(folded, truth, cases)
    _demand_folding(own, unfolded, grant=_ROUNDING)
    return Reference(cases, truth, own)


def _errors(
    mine: dict[str, Array], truth: dict[str, NDArray[np.float64]], cases: Cases
) -> dict[tuple[str, str], Errors]:
    for name, array in (*truth.items(), *mine.items()):
        if not np.isfinite(array).all():
            raise ProofError(f"numbers: the module itself gives NaN or Inf in {name}")
    return {
        (name, kind): errors(mine[name][rows], truth[name][rows])
        for name in truth
        for kind, rows in cases.kinds.items()
    }


def _demand_folding(
    folded: Mapping[tuple[str, str], Errors], plain: Mapping[tuple[str, str], Errors], *, grant: float
) -> None:
    """Holds the folded form itself against the module's own: a wrong folding must not set its own budget."""
    for (name, kind), found in folded.items():
        allowed = budget(plain[name, kind], grant=grant)
        if not allowed.holds(found):
            by = f"relative L2 {found.rel_l2:.2e} (budget {allowed.rel_l2:.2e})"
            most = f"at most {found.max_abs:.2e} (budget {allowed.max_abs:.2e})"
            raise ProofError(f"numbers: folding normalisation moves {name} of {kind} by {by} and {most}")


def _demand_same(again: dict[str, Array], truth: dict[str, Array]) -> None:
    """Refuses a module that rolls dice: its own float32 would be as far from float64 as any graph."""
    for name, array in again.items():
        if not np.array_equal(array, truth[name][:1], equal_nan=True):
            raise ProofError(f"numbers: the module gives other values for {name} each time it runs")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch to one thread, so that sums run in one order whatever the machine is doing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def _wide(rows: Array, graph: pb.Graph, spec: pb.ModelSpec) -> NDArray[np.float64]:
    """The module's input in float64: (u / 255 - mean) / std for pixels."""
    if not graph.input.folded:
        return rows.astype(np.float64)
    told = spec.preprocessing
    mean, std = (np.array(item)[:, None, None] for item in (told.mean, told.std))
    normal: NDArray[np.float64] = (_nchw(rows).astype(np.float64) * told.rescale_factor - mean) / std
    return normal


def _nchw(pixels: Array) -> Array:
    return pixels.transpose(0, 3, 1, 2)  # B H W C -> B C H W


def _folded(wrapped: Inference, spec: pb.ModelSpec) -> nn.Module:
    """The float32 module with normalisation folded into its first weights: the graph's form, in torch."""
    module = copy.deepcopy(wrapped)
    for item in plan(structure.read(wrapped, spec)).pair(spec.preprocessing):
        owner, _, leaf = item.name.removesuffix(SUFFIX).rpartition(".")
        parameter = nn.Parameter(torch.from_numpy(item.array.copy()), requires_grad=False)
        setattr(module.module.get_submodule(owner), leaf, parameter)
    return module


def _run(module: nn.Module, rows: Array, graph: pb.Graph) -> dict[str, Array]:
    found: list[tuple[Tensor, ...]] = [
        module(torch.from_numpy(rows[at : at + 1].copy())) for at in range(len(rows))
    ]
    if len(found[0]) != len(graph.outputs):
        raise ProofError(f"numbers: the module gives {len(found[0])} outputs, not {len(graph.outputs)}")
    columns = zip(graph.outputs, zip(*found, strict=True), strict=True)
    return {name: torch.cat(parts).contiguous().numpy() for name, parts in columns}
