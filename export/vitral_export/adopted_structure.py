"""The structural net of an adopted file: the reference's own steps where they can be told, else its weights.

The rule: a file is the reference's where its steps, constants and weights are, as of any other export; or
where every parameter that its outputs need is in it bit for bit. What then is left to the numbers is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper

from vitral.errors import ProofError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_export import structure
from vitral_export.adopted_graphs import folded
from vitral_export.adopted_weights import Search, kinds, needed, search
from vitral_export.onnx_graph import FLOAT_FILE
from vitral_export.operations import Program
from vitral_export.wrap import Inference

_SHOWN = 5


@dataclass(frozen=True)
class Comparison:
    """What was compared in structure.

    Attributes:
        search: where the parameters were found; None where the whole program is the reference's.
        why: why the whole could not be compared, or what differs.
    """

    search: Search | None
    why: str

    @property
    def note(self) -> str:
        """What the proof leaves to the numbers; empty where it leaves nothing."""
        if self.search is None:
            return ""
        count = len(self.search.found)
        told = f"structure was compared by weights: {count} parameters of the reference are in the graph bit "
        told += f"for bit ({self.search})"
        if self.search.own:
            shown = ", ".join(self.search.own[:_SHOWN])
            more = f" and {len(self.search.own) - _SHOWN} more" if len(self.search.own) > _SHOWN else ""
            told += f", {len(self.search.own)} tensors of it are none of them ({shown}{more})"
        left = "steps, their wiring and constants (eps, scales) are held by the numbers alone"
        return f"{told}; {left}, for the graph is another exporter's: {self.why}"


def compare(folder: Path, spec: pb.ModelSpec, reference: Inference) -> Comparison:
    """Holds the written graphs against the reference.

    Raises:
        ProofError: a parameter of the reference is nowhere in the file, or the uint8 graph is something else
            than the other one with normalisation folded in.
    """
    own, why = _program(spec, reference)
    if own is not None:
        try:
            problems = structure.compare(folder, spec, own)
        except Exception as error:  # whatever is odd about a stranger's graph
            problems = [f"it cannot be read ({type(error).__name__}: {error})"]
        if not problems:
            return Comparison(None, "")
        why = next((item for item in problems if "operator sets" not in item), problems[0])
    model = onnx.load(folder / FLOAT_FILE)
    found = search(model, _wanted(own, reference))
    if found.missing:
        shown = ", ".join(found.missing[:_SHOWN])
        more = f" and {len(found.missing) - _SHOWN} more" if len(found.missing) > _SHOWN else ""
        count = f"{len(found.missing)} of {len(found.missing) + len(found.found)} parameters"
        others = sorted(kinds(model) - {"float32"})
        holds = f" (it holds weights of {', '.join(others)})" if others else ""
        raise ProofError(f"structure: {count} of the reference are nowhere in the file{holds}: {shown}{more}")
    if len(spec.graphs) > 1:
        _demand_folding(folder, spec, model)
    return Comparison(found, " ".join(why.split()))


def _program(spec: pb.ModelSpec, reference: Inference) -> tuple[Program | None, str]:
    try:
        return structure.read(reference, spec), ""
    except ProofError as error:  # an operator without a rule
        return None, str(error).removeprefix("structure: ")


def _wanted(own: Program | None, reference: Inference) -> Mapping[str, Array]:
    """The parameters that the outputs need; all of them where that cannot be told."""
    named = dict(reference.module.named_parameters()) | dict(reference.module.named_buffers())
    floats = {name: item.detach().numpy() for name, item in named.items() if item.is_floating_point()}
    return floats if own is None else needed(own, floats)


def _demand_folding(folder: Path, spec: pb.ModelSpec, model: onnx.ModelProto) -> None:
    """Refuses a uint8 graph that is anything but the float32 one with normalisation folded in."""
    for graph in spec.graphs:
        if not graph.input.folded:
            continue
        written, made = onnx.load(folder / graph.file), folded(model, spec.preprocessing)
        if _outline(written) != _outline(made):
            told = f"{graph.file} is not {FLOAT_FILE} with normalisation folded in"
            raise ProofError(f"structure: {told}")


def _outline(model: onnx.ModelProto) -> list[bytes]:
    """Nodes, weights, input and outputs as bytes, without what only describes them."""
    graph = model.graph
    weights = [
        f"{item.name} {item.data_type} {list(item.dims)}".encode() + numpy_helper.to_array(item).tobytes()
        for item in graph.initializer
    ]
    infos = [
        item.name.encode() + item.type.tensor_type.SerializeToString(deterministic=True)
        for item in (*graph.input, *graph.output)
    ]
    return [*(node.SerializeToString(deterministic=True) for node in graph.node), *weights, *infos]
