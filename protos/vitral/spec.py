"""Loads, checks and answers questions about a `ModelSpec`, the one description of a model.

The message is the only copy of what a model is: nothing here stores any of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format

from vitral.errors import ArtifactError, InvalidArgumentError, UnsupportedError
from vitral.limits import SCHEMA
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2

MANIFEST = "manifest.json"
"""File of the spec in a version folder."""

WEIGHTS = "weights.bin"
"""External data of every graph of a version."""

EMBEDDING = "embedding.safetensors"
"""Projection, CLS token and position embedding, from which pictures are drawn."""


def to_json(spec: pb.ModelSpec) -> str:
    """The text of manifest.json: proto JSON with proto field names, maps sorted."""
    data = json_format.MessageToDict(spec, preserving_proto_field_name=True)
    return json.dumps(_sorted_maps(data), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str | bytes, *, where: str = MANIFEST) -> pb.ModelSpec:
    """The spec in this text, or in its UTF-8 bytes.

    Raises:
        ArtifactError: it is not JSON, of a newer schema, not a ModelSpec, or contradicts itself.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ArtifactError(f"{where} is not JSON: {error}") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise ArtifactError(f"{where} has no schema number")
    if schema > SCHEMA:
        message = f"{where} has schema {schema}, this vitral reads up to {SCHEMA}: upgrade vitral"
        raise ArtifactError(message)
    try:
        spec = json_format.ParseDict(data, pb.ModelSpec())
    except (json_format.ParseError, RecursionError) as error:
        raise ArtifactError(f"{where} is not a ModelSpec: {error}") from None
    check(spec, where=where)
    return spec


def check(spec: pb.ModelSpec, *, where: str = MANIFEST) -> None:
    """Refuses a spec that contradicts itself.

    Raises:
        ArtifactError: with the contradiction.
    """
    known = {item.name for item in spec.outputs}
    produced = {name for graph in spec.graphs for name in graph.outputs}
    defaults = set(spec.default_outputs)
    untrained = [item.name for item in spec.outputs if item.name in defaults and not item.trained]
    axes = [*(item.axes for item in spec.outputs), *(graph.input.axes for graph in spec.graphs)]
    problems = {
        "no name": not spec.name,
        "no graphs": not spec.graphs,
        "two outputs of one name": len(known) != len(spec.outputs),
        f"outputs {sorted(known)}, but its graphs give {sorted(produced)}": known != produced,
        "no default outputs": not defaults,
        f"default outputs {sorted(defaults)}, of which some are not outputs": not defaults <= known,
        f"default outputs that are untrained: {untrained}": bool(untrained),
        "an input or output whose first axis is not the batch": not all(map(_batched, axes)),
    }
    for message, wrong in problems.items():
        if wrong:
            raise ArtifactError(f"{where}: {message}")


def output(spec: pb.ModelSpec, name: str) -> pb.Output:
    """The output of this name.

    Raises:
        InvalidArgumentError: there is none; the message lists those there are.
    """
    for item in spec.outputs:
        if item.name == name:
            return item
    names = ", ".join(item.name for item in spec.outputs)
    raise InvalidArgumentError(f"model {spec.name} has no output {name!r}; it has {names}")


def demand_numbers(spec: pb.ModelSpec, names: Sequence[str]) -> None:
    """Refuses outputs that a graph gives as bfloat16, which NumPy cannot compute with.

    Raises:
        UnsupportedError: with the first of them.
    """
    for item in spec.outputs:
        if item.dtype == tensor_pb2.DATA_TYPE_BFLOAT16 and item.name in names:
            told = f"output {item.name} of model {spec.name} is bfloat16 in the graph"
            raise UnsupportedError(f"{told}: only ModelInfer gives it, as it is")


def item_shape(axes: Sequence[pb.Axis]) -> tuple[int, ...]:
    """Extents without the batch axis; 0 stands for a dynamic one."""
    return tuple(axis.size for axis in axes[1:])


def has_patches(item: pb.Output) -> bool:
    """Whether an output is a sequence of tokens, (B, N, D)."""
    return [axis.name for axis in item.axes][1:2] == ["token"]


def is_random(spec: pb.ModelSpec) -> bool:
    """Whether the weights were never trained."""
    return spec.source.weights == pb.WEIGHTS_ORIGIN_RANDOM


def is_unproven(spec: pb.ModelSpec) -> bool:
    """Whether the model was never proven against a reference; `proof.note` says why."""
    return spec.proof.status != pb.PROOF_STATUS_PROVEN


def unproven(spec: pb.ModelSpec) -> str:
    """The sentence that says so of a model that is, and why."""
    return (
        f"model {spec.name} is unproven: {spec.proof.note or 'its manifest does not say that it is proven'}"
    )


def float_graph(spec: pb.ModelSpec) -> pb.Graph:
    """The whole graph that takes `prepared` rows: float32, nothing folded."""
    for graph in spec.graphs:
        if graph.input.dtype == tensor_pb2.DATA_TYPE_FLOAT32 and not graph.input.folded:
            return whole_graph(spec, graph)
    raise ArtifactError(f"model {spec.name} has no float32 graph")


def plain_graph(spec: pb.ModelSpec) -> pb.Graph:
    """The whole graph that others serve too, of the model's own float input and type: nothing folded."""
    for graph in spec.graphs:
        if not graph.input.folded:
            return whole_graph(spec, graph)
    raise ArtifactError(f"model {spec.name} has no graph of its own float input")


def whole_graph(spec: pb.ModelSpec, part: pb.Graph) -> pb.Graph:
    """The graph of this one's input that gives the most outputs: the one it is a part of, or itself."""
    fitting = [graph for graph in spec.graphs if graph.input == part.input]
    return max(fitting, key=lambda graph: (len(graph.outputs), graph.file == part.file))


def main_graph(spec: pb.ModelSpec) -> pb.Graph:
    """The graph that a request without wishes runs."""
    return cheapest_graph(spec, spec.default_outputs, pixels=True)


def input_size(preprocessing: pb.Preprocessing) -> tensor_pb2.ImageSize:
    """Size of the pixels that a graph takes: that of the crop where there is one, else of the resize."""
    return preprocessing.crop_size if preprocessing.HasField("crop_size") else preprocessing.size


def cheapest_graph(spec: pb.ModelSpec, outputs: Sequence[str], *, pixels: bool) -> pb.Graph:
    """The first graph that gives these outputs; from uint8 pixels where `pixels` allows it."""
    for graph in spec.graphs:
        if set(outputs) <= set(graph.outputs) and (pixels or not graph.input.folded):
            return graph
    raise InvalidArgumentError(f"no graph of model {spec.name} gives {', '.join(outputs)} together")


def identity(spec: pb.ModelSpec, sha256: Mapping[str, str]) -> str:
    """The fingerprint: sha256 over graphs, weights, embedding tensors, preprocessing and opset.

    What only describes them is left out: other words must not make another embedding space.
    """
    names = sorted({graph.file for graph in spec.graphs} | {WEIGHTS, EMBEDDING})
    preprocessing = json_format.MessageToDict(spec.preprocessing, preserving_proto_field_name=True)
    preprocessing.pop("bound", None)  # a sentence about the contract, not the contract
    parts = {
        "files": {name: sha256[name] for name in names if name in sha256},
        "preprocessing": preprocessing,
        "opset": spec.opset,
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _batched(axes: Sequence[pb.Axis]) -> bool:
    return bool(axes) and axes[0].name == "batch" and axes[0].size == 0


def _sorted_maps(data: dict[str, Any]) -> dict[str, Any]:
    holders = (
        (data, "sha256"),
        (data.get("source", {}), "libraries"),
        (data.get("proof", {}).get("photograph", {}), "libraries"),
        *((graph, "fused") for graph in data.get("graphs", [])),
    )
    for holder, key in holders:
        if key in holder:
            holder[key] = dict(sorted(holder[key].items()))
    return data
