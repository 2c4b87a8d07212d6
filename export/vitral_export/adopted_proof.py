"""What an adopted model is held to: its PyTorch reference, or else what it gave when it was adopted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitral.errors import InvalidArgumentError, ProofError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine.device import available
from vitral_engine.measure import UNPROVEN_GRANT, Budget, Errors, budget, errors
from vitral_engine.preprocess import Preprocessor
from vitral_engine.session import LEVELS, GraphSession, SessionOptions
from vitral_export import adopted_structure, numbers, verify
from vitral_export.adopted import Adopted
from vitral_export.cases import Cases, cases
from vitral_export.loaded import Loaded
from vitral_export.onnx_graph import FLOAT_FILE
from vitral_export.truth import Reference
from vitral_export.verify import Verification
from vitral_export.wrap import Inference

UNPROVEN = (
    "there was no PyTorch reference: its goldens are what onnxruntime gave for the file when it was adopted, "
    "and hold it to itself"
)
"""Why a model is unproven."""


@dataclass(frozen=True)
class Recorded(Reference):
    """What a graph gave at adoption, in place of truth; `torch` is by how much its settings differ."""

    def budget(self, output: str, kind: str) -> Budget:
        """What is allowed for this output on rows of this kind."""
        return budget(self.torch[output, kind], grant=UNPROVEN_GRANT)


def paired(known: Adopted, reference: Loaded) -> tuple[Adopted, Loaded]:
    """The file described as its reference is, and the reference giving the file's outputs in its order.

    Raises:
        InvalidArgumentError: they take other images, or the reference does not give an output of the file.
    """
    mine, its = (_extents(item.input.axes) for item in (known, reference))
    if mine != its:
        raise InvalidArgumentError(f"{known.file.name} takes images of {mine}, the reference {its}")
    by_name = {item.name: item for item in reference.outputs}
    lone = len(by_name) == len(known.outputs) == 1  # whatever its name
    outputs, pairs = [], []
    for item in known.outputs:
        other = reference.outputs[0] if lone else by_name.get(item.name)
        if other is None:
            given = ", ".join(by_name)
            told = f"the reference gives {given}, not {item.name}"
            raise InvalidArgumentError(
                f"{known.file.name}: {told}: --outputs chooses, NAME=OUTPUT_OF_THE_FILE names"
            )
        if _extents(item.axes) != _extents(other.axes):
            told = f"{item.name} is {_extents(item.axes)}, the reference's is {_extents(other.axes)}"
            raise InvalidArgumentError(f"{known.file.name}: {told}")
        renamed = pb.Output()
        renamed.CopyFrom(other)
        renamed.name = item.name
        outputs.append(renamed)
        pairs.append(other)
    source = pb.Source()
    source.CopyFrom(known.source)
    source.weights_note = f"{source.weights_note}, held against {named(reference)}"
    unsaid = known.preprocessing is None and reference.preprocessing is not None
    described = replace(
        known,
        outputs=tuple(outputs),
        architecture=reference.architecture,
        source=source,
        preprocessing=reference.preprocessing if unsaid else known.preprocessing,
        undecided="" if unsaid else known.undecided,
    )
    return described, replace(reference, outputs=tuple(pairs))


def prove(folder: Path, spec: pb.ModelSpec, reference: Loaded) -> Verification:
    """Holds the written graphs against the reference, which gives their outputs in their order.

    Raises:
        ProofError: naming the net and the figure, at the first net that fails.
    """
    wrapped = Inference(reference)
    compared = adopted_structure.compare(folder, spec, wrapped)
    done = verify.hold(folder, spec, verify.references_of(spec, wrapped))
    if compared.search is not None:
        done.proof.note = f"held against {named(reference)}; {compared.note}"
        return replace(done, weights=compared.search.by_form() | {"of the file's own": compared.search.own})
    return done


def record(folder: Path, spec: pb.ModelSpec) -> Verification:
    """Writes down what the graphs give, and holds every setting, and the uint8 graph, to it.

    Raises:
        ProofError: runs of the same rows differ by more than float32 explains.
    """
    try:
        done = verify.hold(folder, spec, _recorded(folder, spec))
    except ProofError as error:
        told = "what it gives for an image depends on how it is run, or on the others of its batch"
        raise ProofError(f"{error}: {told}") from error
    done.proof.status, done.proof.note = pb.PROOF_STATUS_UNPROVEN, UNPROVEN
    done.proof.ill_conditioned, done.proof.torch_rel_l2 = False, 0.0
    for figure in done.proof.figures:  # there is no torch in it
        figure.torch_rel_l2 = figure.torch_max_abs = 0.0
    return done


def named(reference: Loaded) -> str:
    """The source of a reference: `hf: vit-base`."""
    return f"{reference.source.kind}: {reference.source.reference}"


def _recorded(folder: Path, spec: pb.ModelSpec) -> dict[str, Reference]:
    preprocessing = spec.preprocessing if spec.HasField("preprocessing") else None
    (plain,) = (graph for graph in spec.graphs if graph.file == FLOAT_FILE)
    found: dict[str, Reference] = {}
    for graph in spec.graphs:
        own = cases(graph, preprocessing)
        rows = Preprocessor(spec.preprocessing).normalise(own.rows) if graph.input.folded else own.rows
        found[graph.file] = _recorded_of(folder, spec, plain, replace(own, rows=rows), shown=own)
    return found


def _recorded_of(
    folder: Path, spec: pb.ModelSpec, graph: pb.Graph, taken: Cases, *, shown: Cases
) -> Recorded:
    """What the float32 graph gives for these rows one by one, and by how much that depends on the setting."""
    runs: list[Mapping[str, Array]] = []
    for placement in available():
        for level in reversed(LEVELS):  # the one that serves first
            options = SessionOptions(threads=1, level=level)
            file = folder / graph.file
            session = GraphSession(file, graph, spec, placement=placement, options=options)
            runs.append(numbers.sweep(session, taken.rows, batch=1))
    truth = {name: array.astype(np.float64) for name, array in runs[0].items()}
    for name, array in truth.items():
        if not np.isfinite(array).all():
            raise ProofError(f"numbers: the file gives NaN or Inf in {name}")
    spread = {
        (name, kind): _largest([errors(run[name][rows], truth[name][rows]) for run in runs])
        for name in truth
        for kind, rows in taken.kinds.items()
    }
    return Recorded(shown, truth, spread, against="its own run at adoption")


def _largest(found: Sequence[Errors]) -> Errors:
    """The largest of both figures."""
    worst = max(found, key=lambda item: item.rel_l2)
    return replace(worst, max_abs=max(item.max_abs for item in found))


def _extents(shape: Sequence[pb.Axis]) -> str:
    return " x ".join(str(axis.size or axis.name) for axis in shape)
