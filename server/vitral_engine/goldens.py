"""Golden inputs and their float64 outputs: the part of the proof that needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from vitral import spec as specs
from vitral.errors import ArtifactError
from vitral.tensors import Array
from vitral.v1.model_pb2 import ModelSpec


@dataclass(frozen=True)
class Goldens:
    """Golden rows.

    Attributes:
        inputs: graph file to its input rows (R, ...).
        outputs: (graph file, output name) to float64 truth (R, ...).
    """

    inputs: dict[str, Array]
    outputs: dict[tuple[str, str], NDArray[np.float64]]

    def encode(self) -> bytes:
        """The bytes of a safetensors file with keys `GRAPH/input` and `GRAPH/OUTPUT`."""
        tensors = {f"{graph}/input": array for graph, array in self.inputs.items()}
        tensors |= {f"{graph}/{name}": array for (graph, name), array in self.outputs.items()}
        data: bytes = save({key: np.ascontiguousarray(value) for key, value in sorted(tensors.items())})
        return data


def load(folder: Path, spec: ModelSpec) -> Goldens:
    """The goldens of a version folder, one input and every output of each graph.

    A part of a graph has those of the whole.

    Raises:
        ArtifactError: a tensor is missing.
    """
    path = folder / spec.proof.golden_file
    tensors = load_file(path)
    inputs, outputs = {}, {}
    try:
        for graph in spec.graphs:
            file = specs.whole_graph(spec, graph).file
            inputs[graph.file] = tensors[f"{file}/input"]
            for name in graph.outputs:
                outputs[graph.file, name] = tensors[f"{file}/{name}"]
    except KeyError as error:
        raise ArtifactError(f"{path.name} has no tensor {error}") from None
    return Goldens(inputs, outputs)
