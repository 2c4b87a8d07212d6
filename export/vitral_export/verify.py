"""The proof: both nets over every graph of a version folder, and what travels with the artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import vitral_engine
from vitral.errors import ProofError
from vitral.v1 import model_pb2 as pb
from vitral_engine.device import available
from vitral_engine.goldens import Goldens
from vitral_engine.measure import ILL_CONDITIONED
from vitral_engine.replay import BATCHES
from vitral_export import numbers, structure
from vitral_export.cases import cases
from vitral_export.numbers import Run
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
    figures = [_figure(graph.file, name, runs, references) for graph in spec.graphs for name in graph.outputs]
    worst = max(figure.torch_rel_l2 for figure in figures)
    proof = pb.Proof(
        status=pb.PROOF_STATUS_PROVEN,
        providers=[placement.provider for placement in placements],
        batch_sizes=BATCHES,
        figures=figures,
        ill_conditioned=worst > ILL_CONDITIONED,
        torch_rel_l2=worst,
        golden_file=GOLDEN_FILE,
    )
    return Verification(proof, goldens_of(references), tuple(runs))


def rehearse(folder: Path) -> None:
    """Opens the finished version folder as a server will: hashes, replay, golden photograph.

    Raises:
        ArtifactError: the engine refuses the folder.
        ProofError: the replay is over budget, or the photograph gives other pixels.
    """
    model = vitral_engine.open(folder, device="cpu")
    model.close()
    if not model.replayed.pixels_equal:
        raise ProofError(f"the golden photograph gives other pixels at once: {model.replayed.pixels_note}")


def references_of(spec: pb.ModelSpec, wrapped: Inference) -> dict[str, Reference]:
    """Truth and budgets of every graph, by file."""
    preprocessing = spec.preprocessing if spec.HasField("preprocessing") else None
    return {graph.file: reference(wrapped, graph, spec, cases(graph, preprocessing)) for graph in spec.graphs}


def goldens_of(references: Mapping[str, Reference]) -> Goldens:
    """The golden rows of every graph and their float64 outputs."""
    inputs, outputs = {}, {}
    for file, known in references.items():
        rows = list(known.cases.golden)
        inputs[file] = known.cases.rows[rows]
        for name, truth in known.truth.items():
            outputs[file, name] = truth[rows]
    return Goldens(inputs, outputs)


def _figure(file: str, output: str, runs: Sequence[Run], references: Mapping[str, Reference]) -> pb.Figure:
    """The largest errors and budgets over all kinds of input, which the golden rows are among."""
    mine = [run for run in runs if (run.graph, run.output) == (file, output)]
    own = [found for (name, _), found in references[file].torch.items() if name == output]
    return pb.Figure(
        graph=file,
        output=output,
        rel_l2=max(run.errors.rel_l2 for run in mine),
        rel_l2_budget=max(run.budget.rel_l2 for run in mine),
        max_abs=max(run.errors.max_abs for run in mine),
        max_abs_budget=max(run.budget.max_abs for run in mine),
        torch_rel_l2=max(found.rel_l2 for found in own),
        torch_max_abs=max(found.max_abs for found in own),
    )
