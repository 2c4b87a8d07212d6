"""Every single change of small graphs through the structural net: what it lets pass has to be neutral.

python -m benchmarks.mutations [MODEL ...]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.faults.models import MODELS, Sound, export
from benchmarks.faults.mutations import mutations
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_export import cases, structure
from vitral_export.operations import Program

_ROWS = 3


@dataclass(frozen=True)
class Outcome:
    """What became of the mutations of one graph.

    Attributes:
        tried: how many there are.
        passed: those in which the structural net finds nothing.
        wrong: those of them that give other numbers than the sound graph, or do not run.
    """

    tried: int
    passed: tuple[str, ...]
    wrong: tuple[str, ...]


def outcome(sound: Sound, own: Program, graph: pb.Graph, *, every: int = 1) -> Outcome:
    """Tries every `every`th mutation of a graph on the structural net, and what passes on onnxruntime."""
    model = onnx.load(sound.folder / graph.file)
    del model.graph.value_info[:]
    expected = structure.expected(own, graph, sound.spec)
    told = sound.spec.preprocessing if sound.spec.HasField("preprocessing") else None
    rows = cases.cases(graph, told).rows[:_ROWS]
    right = _run(model, graph, rows)
    assert len(right) == len(graph.outputs)
    tried, passed, wrong = 0, [], []
    for index, (what, change) in enumerate(mutations(model.graph)):
        if index % every:
            continue
        tried += 1
        spoiled = onnx.ModelProto()
        spoiled.CopyFrom(model)
        change(spoiled.graph)
        if structure.problems(spoiled, graph, sound.spec, expected):
            continue
        passed.append(what)
        if _run(spoiled, graph, rows) != right:
            wrong.append(what)
    return Outcome(tried, tuple(passed), tuple(wrong))


def _run(model: onnx.ModelProto, graph: pb.Graph, rows: Array) -> list[bytes]:
    """The bytes of every output; none where the graph does not run."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(item).tobytes() for item in session.run(None, {graph.input.name: rows})]
    except Exception:  # onnxruntime raises classes of its own for every fault
        return []


def outcomes(models: Sequence[str]) -> Iterator[tuple[str, str, Outcome]]:
    """Model, file and outcome, one graph after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            sound = export(model, Path(scratch) / model)
            own = structure.read(sound.wrapped, sound.spec)
            for graph in sound.spec.graphs:
                yield model, graph.file, outcome(sound, own, graph)


def main() -> int:
    """Prints the counts; 1 when something that passes is not neutral."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"from {', '.join(MODELS)} (default: all)")
    args = parser.parse_args()
    if unknown := [name for name in args.models if name not in MODELS]:
        parser.error(f"unknown model {unknown[0]}")
    wrong = 0
    for model, file, found in outcomes(args.models or list(MODELS)):
        wrong += len(found.wrong)
        print(
            f"{model} {file}: {found.tried} changes, {len(found.passed)} pass the structural net, "
            f"{len(found.wrong)} of them give other bits"
        )
        for what in found.wrong:
            print(f"    {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
