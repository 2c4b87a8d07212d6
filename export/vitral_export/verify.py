"""The proof: both nets over every graph of a version folder, and what travels with the artifact."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import vitral_engine
from vitral import spec as specs
from vitral.errors import ProofError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine.device import Placement, available
from vitral_engine.goldens import Goldens
from vitral_engine.measure import ILL_CONDITIONED
from vitral_engine.replay import BATCHES
from vitral_export import heap, numbers, structure
from vitral_export.cases import cases, cases_at
from vitral_export.dynamic_size import Size, is_dynamic, sizes
from vitral_export.fold import plan
from vitral_export.numbers import Run
from vitral_export.precision.kinds import FLOAT16, FLOAT32
from vitral_export.progress import stage
from vitral_export.truth import Reference, reference
from vitral_export.wrap import Inference

GOLDEN_FILE = "golden.safetensors"
"""File of the golden rows."""


@dataclass(frozen=True)
class Verification:
    """A passed verification.

    Attributes:
        proof: what the manifest says of it; the golden photograph is added by the artifact.
        goldens: rows that travel.
        runs: every run of the numeric net.
        weights: where structure was compared by weights alone: parameters by how they were found.
    """

    proof: pb.Proof
    goldens: Goldens
    runs: tuple[Run, ...]
    weights: Mapping[str, Sequence[str]] = field(default_factory=dict)


def prove(folder: Path, spec: pb.ModelSpec, wrapped: Inference) -> Verification:
    """Holds the graphs in `folder` against the module.

    Raises:
        ProofError: naming the net and the figure, at the first net that fails.
    """
    structure.demand(structure.check(folder, spec, wrapped))
    return hold(folder, spec, references_of(spec, wrapped))


def hold(folder: Path, spec: pb.ModelSpec, references: Mapping[str, Reference]) -> Verification:
    """Holds the graphs in `folder` against truth and budgets, by file.

    Raises:
        ProofError: a figure is over its budget.
    """
    placements = available()
    runs: list[Run] = []
    for graph in spec.graphs:
        runs += numbers.check(folder, graph, spec, references[graph.file], placements)
    numbers.demand(runs)
    figures = [
        _figure(graph.file, name, provider, runs, references)
        for graph in spec.graphs
        for name in graph.outputs
        for provider in _apart(spec, placements)
    ]
    worst = max(figure.torch_rel_l2 for figure in figures)
    proof = pb.Proof(
        status=pb.PROOF_STATUS_PROVEN,
        providers=[placement.provider for placement in placements],
        batch_sizes=BATCHES,
        figures=figures,
        ill_conditioned=spec.precision == FLOAT32 and worst > ILL_CONDITIONED,
        torch_rel_l2=worst,
        golden_file=GOLDEN_FILE,
        sizes=[tensor_pb2.ImageSize(height=size[0], width=size[1]) for size in _proven(spec)],
    )
    return Verification(proof, goldens_of(spec, references), tuple(runs))


def rehearse(folder: Path) -> None:
    """Opens the finished version folder as a server will: hashes, replay, golden photograph.

    Raises:
        ArtifactError: the engine refuses the folder.
        ProofError: the replay is over budget, or the photograph gives other pixels.
    """
    with stage("rehearsal"):
        model = vitral_engine.open(folder, device="cpu")
    model.close()
    if not model.replayed.pixels_equal:
        raise ProofError(f"the golden photograph gives other pixels at once: {model.replayed.pixels_note}")


def references_of(spec: pb.ModelSpec, wrapped: Inference) -> dict[str, Reference]:
    """Truth and budgets of every graph, by file; a part of a graph has those of the whole."""
    told = spec.preprocessing if spec.HasField("preprocessing") else None
    proven = _proven(spec)
    native = proven[0] if proven else None
    folds = native is not None and any(graph.input.folded for graph in spec.graphs)
    folding = plan(structure.read(wrapped, spec)) if folds else None
    whole = {graph.file: specs.whole_graph(spec, graph) for graph in spec.graphs}
    found = {}
    for graph in (graph for graph in spec.graphs if graph == whole[graph.file]):
        own = reference(wrapped, graph, spec, cases(graph, told, native), folding)
        others = {
            size: reference(
                wrapped, graph, spec, cases_at(graph, told, size, few=_is_large(size, native)), folding
            )
            for size in proven[1:]
        }
        found[graph.file] = replace(own, others=others)
    heap.trim()  # of float64 nothing is needed any more but its results
    return {file: found[graph.file] for file, graph in whole.items()}


def _proven(spec: pb.ModelSpec) -> tuple[Size, ...]:
    """Image sizes that are run, the native one first; none for a model of static size."""
    return sizes(spec.architecture).proven if is_dynamic(spec.architecture) else ()


def _is_large(size: Size, native: Size | None) -> bool:
    return native is not None and math.prod(size) > math.prod(native)


def goldens_of(spec: pb.ModelSpec, references: Mapping[str, Reference]) -> Goldens:
    """The golden rows of every whole graph and their float64 outputs, at every size that travels."""
    sized = sizes(spec.architecture).golden if is_dynamic(spec.architecture) else ()
    files = dict.fromkeys(specs.whole_graph(spec, graph).file for graph in spec.graphs)
    whole = {file: references[file] for file in files}
    others = {size: _goldens({file: known.others[size] for file, known in whole.items()}) for size in sized}
    return replace(_goldens(whole), sized=others)


def _goldens(references: Mapping[str, Reference]) -> Goldens:
    inputs, outputs = {}, {}
    for file, known in references.items():
        rows = list(known.cases.golden)
        inputs[file] = known.cases.rows[rows]
        for name, truth in known.truth.items():
            outputs[file, name] = truth[rows]
    return Goldens(inputs, outputs)


def _apart(spec: pb.ModelSpec, placements: Sequence[Placement]) -> list[str]:
    """Providers that have figures of their own; of float32 and int8 those of one hold for all."""
    return [item.provider for item in placements] if spec.precision == FLOAT16 else [""]


def _figure(
    file: str, output: str, provider: str, runs: Sequence[Run], references: Mapping[str, Reference]
) -> pb.Figure:
    """The largest errors and budgets over all kinds of input, which the golden rows are among."""
    mine = [
        run
        for run in runs
        if (run.graph, run.output) == (file, output) and provider in ("", run.setting.provider)
    ]
    known = references[file].on(provider)
    told = [item for each in (known, *known.others.values()) for item in each.torch.items()]
    own = [found for (name, _), found in told if name == output]
    return pb.Figure(
        graph=file,
        output=output,
        provider=provider,
        rel_l2=max(run.errors.rel_l2 for run in mine),
        rel_l2_budget=max(run.budget.rel_l2 for run in mine),
        max_abs=max(run.errors.max_abs for run in mine),
        max_abs_budget=max(run.budget.max_abs for run in mine),
        torch_rel_l2=max(found.rel_l2 for found in own),
        torch_max_abs=max(found.max_abs for found in own),
    )
