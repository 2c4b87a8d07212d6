"""Golden inputs and their float64 outputs: the part of the proof that needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from vitral import spec as specs
from vitral.errors import ArtifactError
from vitral.tensors import Array
from vitral.v1.model_pb2 import ModelSpec

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Goldens:
    """Golden rows.

    Attributes:
        inputs: graph file to its input rows (R, ...), of the native size.
        outputs: (graph file, output name) to float64 truth (R, ...).
        sized: the same at other image sizes, for a model that takes several.
    """

    inputs: dict[str, Array]
    outputs: dict[tuple[str, str], NDArray[np.float64]]
    sized: Mapping[Size, Goldens] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The bytes of a safetensors file with keys `GRAPH/input` and `GRAPH/OUTPUT`.

        Those of other sizes end with `@160x384`, height and width.
        """
        tensors = self._tensors("")
        for (height, width), other in self.sized.items():
            tensors |= other._tensors(f"@{height}x{width}")
        data: bytes = save({key: np.ascontiguousarray(value) for key, value in sorted(tensors.items())})
        return data

    def _tensors(self, suffix: str) -> dict[str, Array]:
        tensors: dict[str, Array] = {f"{graph}/input{suffix}": array for graph, array in self.inputs.items()}
        return tensors | {f"{graph}/{name}{suffix}": array for (graph, name), array in self.outputs.items()}


def load(folder: Path, spec: ModelSpec) -> Goldens:
    """The goldens of a version folder, one input and every output of each graph.

    A part of a graph has those of the whole.

    Raises:
        ArtifactError: a tensor is missing.
    """
    path = folder / spec.proof.golden_file
    tensors = load_file(path)
    try:
        sized = {size: _goldens(tensors, spec, f"@{size[0]}x{size[1]}") for size in _sizes(tensors)}
        return replace(_goldens(tensors, spec, ""), sized=sized)
    except KeyError as error:
        raise ArtifactError(f"{path.name} has no tensor {error}") from None


def _goldens(tensors: Mapping[str, Array], spec: ModelSpec, suffix: str) -> Goldens:
    inputs, outputs = {}, {}
    for graph in spec.graphs:
        file = specs.whole_graph(spec, graph).file
        inputs[graph.file] = tensors[f"{file}/input{suffix}"]
        for name in graph.outputs:
            outputs[graph.file, name] = tensors[f"{file}/{name}{suffix}"]
    return Goldens(inputs, outputs)


def _sizes(tensors: Mapping[str, Array]) -> list[Size]:
    """Sizes that a key ends with, other than the native one."""
    found = (re.search(r"@(\d+)x(\d+)$", key) for key in tensors)
    return sorted({(int(size[1]), int(size[2])) for size in found if size})
