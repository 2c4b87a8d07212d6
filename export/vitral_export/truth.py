"""What a graph should give, in float64 from its input on, and how far torch's own float32 is from that."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitral.errors import ProofError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine.measure import Budget, Errors, budget, errors
from vitral_engine.placement import CUDA
from vitral_engine.preprocess import Preprocessor
from vitral_export import progress, structure
from vitral_export.cases import Cases
from vitral_export.fold import CENTRE, SUFFIX, Folding, plan
from vitral_export.onnx_graph import TRACED_BATCH
from vitral_export.operations import Weight
from vitral_export.precision import forms
from vitral_export.precision.kinds import CEILING, FLOAT16, FLOAT32, INT8
from vitral_export.precision.rounding import PIXEL_SCALE
from vitral_export.wrap import Inference, widened

_ROUNDING = 4
"""What the folded form may be off in float32, in units of the floor of a budget.

Weights of few bits (halves, say) make exact products with pixels of -1 and 1, which float32 then adds without
any error; folded they have all their bits. In float64 the folded form is held to the budget as it is.
"""


_FLOAT32 = "torch float32"

Truth: TypeAlias = dict[str, NDArray[np.float64]]
"""Float64 values (R, ...) by output."""

Found: TypeAlias = dict[tuple[str, str], Errors]
"""Errors by output and kind of input."""

Pair: TypeAlias = tuple[Weight, ...]
"""Weight and bias with normalisation folded into them; nothing where it is not."""


@dataclass(frozen=True)
class Reference:
    """Truth and budgets of one graph on its cases.

    Attributes:
        cases: the inputs.
        truth: what is right.
        torch: the errors of torch float32 in the same form, or of the same loss in torch.
        ceiling: relative L2 error over which nothing is allowed, whatever torch's own is.
        elsewhere: the same as `torch` by execution provider, where torch runs on its device too.
        others: the same at other image sizes, for a graph of dynamic height and width.
        against: what the truth is, for messages.
    """

    cases: Cases
    truth: Truth
    torch: Found
    ceiling: float = math.inf
    elsewhere: Mapping[str, Found] = field(default_factory=dict)
    others: Mapping[tuple[int, int], Reference] = field(default_factory=dict)
    against: str = "float64"

    def budget(self, output: str, kind: str) -> Budget:
        """What is allowed for this output on rows of this kind."""
        found = budget(self.torch[output, kind])
        return replace(found, rel_l2=min(found.rel_l2, self.ceiling))

    def on(self, provider: str) -> Reference:
        """The same with what torch makes of it on this provider's device, where that is known."""
        others = {size: other.on(provider) for size, other in self.others.items()}
        return replace(self, torch=self.elsewhere.get(provider, self.torch), others=others)


def reference(
    wrapped: Inference, graph: pb.Graph, spec: pb.ModelSpec, cases: Cases, folding: Folding | None = None
) -> Reference:
    """Runs the module in float64 and in the precision of a graph on its rows.

    `folding` is that of the module, where it is known already.

    Raises:
        ProofError: the module's own output is not finite, not of the promised shape, or another every time;
            or the precision loses too much of it.
    """
    with one_thread():
        truth = _truth(wrapped, graph, spec, cases)
        pair: Pair = ()
        if graph.input.folded:
            pair = (folding or plan(structure.read(wrapped, spec))).pair(spec.preprocessing)
        if spec.precision != FLOAT32:
            return _below_float32(wrapped, graph, spec, cases, truth, pair)
        return Reference(cases, truth, _float32(wrapped, graph, spec, cases, truth, pair))


def _truth(wrapped: Inference, graph: pb.Graph, spec: pb.ModelSpec, cases: Cases) -> Truth:
    wide, rows = widened(wrapped), _wide(cases.rows, graph, spec)
    truth = _run(wide, rows, graph, "float64 truth")
    _demand_same(_run(wide, rows[:1], graph, "one row once more"), truth)
    return truth


def _float32(
    wrapped: Inference, graph: pb.Graph, spec: pb.ModelSpec, cases: Cases, truth: Truth, pair: Pair
) -> Found:
    """Errors of torch float32 in the form of the graph, which is itself held against the module's own."""
    if not graph.input.folded:
        return _errors(_run(wrapped, cases.rows, graph, _FLOAT32), truth, cases)
    plain = _run(wrapped, Preprocessor(spec.preprocessing).normalise(cases.rows), graph, _FLOAT32)
    centred = _nchw(cases.rows).astype(np.float32) - CENTRE
    form = _folded(wrapped, pair)
    folded = _run(form, centred, graph, f"{_FLOAT32}, folded,")
    exact = _run(widened(form), centred.astype(np.float64), graph, "float64, folded,")
    unfolded = _errors(plain, truth, cases)
    _demand_folding(_errors(exact, truth, cases), unfolded, grant=1)
    own = _errors(folded, truth, cases)
    _demand_folding(own, unfolded, grant=_ROUNDING)
    return own


def _below_float32(
    wrapped: Inference, graph: pb.Graph, spec: pb.ModelSpec, cases: Cases, truth: Truth, pair: Pair
) -> Reference:
    """Errors of the same loss in torch, in the form of the graph."""
    rows = cases.rows
    module: nn.Module = wrapped
    if graph.input.folded:
        _float32(wrapped, graph, spec, cases, truth, pair)  # a wrong folding must not hide in a wider budget
        scale = 1.0 if spec.precision == INT8 else PIXEL_SCALE
        module = _folded(wrapped, pair, scale=scale)
        rows = (_nchw(rows).astype(np.float32) - CENTRE) / np.float32(scale)
    shape = (TRACED_BATCH, *rows.shape[1:])
    if spec.precision == FLOAT16:
        forms.demand_in_range(module, torch.from_numpy(rows), shape)

    def own(device: str) -> Found:
        form = forms.form(module, spec.precision, shape, device=device)
        return _errors(_run(form, rows, graph, f"torch {spec.precision} on {device}"), truth, cases)

    found = own("cpu")
    _demand_useful(found, spec.precision)
    on_gpu = spec.precision == FLOAT16 and torch.cuda.is_available()
    return Reference(cases, truth, found, CEILING, {CUDA: own("cuda")} if on_gpu else {})


def _demand_useful(found: Found, precision: str) -> None:
    for (name, kind), own in found.items():
        if not own.rel_l2 <= CEILING:
            moved = f"moves {name} of {kind} by relative L2 {own.rel_l2:.2e} in PyTorch itself"
            raise ProofError(f"numbers: {precision} {moved}: over {CEILING} it is of no use")


def _errors(mine: dict[str, Array], truth: Truth, cases: Cases) -> Found:
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


def _folded(wrapped: Inference, pair: Pair, *, scale: float = 1.0) -> nn.Module:
    """The float32 module with normalisation folded into its first weights: the graph's form, in torch.

    It takes centred pixels, divided by `scale`. All other parameters are the module's own.
    """
    module = copy.deepcopy(wrapped, {id(own): own for own in wrapped.parameters()})
    for item, factor in zip(pair, (scale, 1.0), strict=True):
        owner, _, leaf = item.name.removesuffix(SUFFIX).rpartition(".")
        parameter = nn.Parameter(torch.from_numpy(item.array * np.float32(factor)), requires_grad=False)
        setattr(module.module.get_submodule(owner), leaf, parameter)
    return module


def _run(module: forms.Form, rows: Array, graph: pb.Graph, what: str) -> dict[str, Array]:
    """Every output of the graph, one row after the other."""
    name = f"{what} of {graph.file}"
    found: list[tuple[Tensor, ...]] = [
        module(torch.from_numpy(rows[at : at + 1].copy())) for at in progress.each(name, range(len(rows)))
    ]
    if len(found[0]) != len(graph.outputs):
        raise ProofError(f"numbers: the module gives {len(found[0])} outputs, not {len(graph.outputs)}")
    columns = zip(graph.outputs, zip(*found, strict=True), strict=True)
    return {name: torch.cat(parts).contiguous().numpy() for name, parts in columns}
