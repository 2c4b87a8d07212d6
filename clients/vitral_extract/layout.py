"""Which arrays a run writes, and which part of the model's outputs each of them is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitral import spec as specs
from vitral.errors import InvalidArgumentError
from vitral.selection import Part, Selection, part
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb

VIEWS = ("patches", "cls", "mean", "all")
"""Parts of a token sequence: patch tokens (N, D), the CLS token (D,), the mean of the patch tokens (D,), and
everything as the model gives it, prefix tokens in front."""

DTYPES = ("float16", "float32")
"""Element types that are written, the default first."""


@dataclass(frozen=True)
class Column:
    """One array of a data set.

    Attributes:
        name: `OUTPUT.VIEW` of a token sequence, `OUTPUT` of another output.
        view: one of `VIEWS`; empty for outputs that are no token sequence.
        part: the rows of the model's output that it holds.
    """

    name: str
    view: str
    part: Part

    @property
    def output(self) -> str:
        """The model's output."""
        return self.part.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture."""
        return self.part.shape

    def of(self, array: Array) -> Array:
        """The part of an output (N, D), or of a batch of them (B, N, D); means are taken in float32."""
        return self.part.of(array)

    def bytes_a_row(self, dtype: str) -> int:
        """Bytes of one picture."""
        return math.prod(self.shape) * np.dtype(dtype).itemsize


def columns(spec: pb.ModelSpec, outputs: Sequence[str], views: Sequence[str]) -> tuple[Column, ...]:
    """The arrays of these outputs (none: the model's defaults) in these views.

    Raises:
        InvalidArgumentError: an output or view is unknown, or the model has not what a view shows.
    """
    for view in views:
        if view not in VIEWS:
            raise InvalidArgumentError(f"unknown view {view!r}; known are {', '.join(VIEWS)}")
    if not spec.HasField("preprocessing"):
        raise InvalidArgumentError(f"model {spec.name} has no preprocessing: it takes no pictures")
    found: list[Column] = []
    for name in outputs or spec.default_outputs:
        if not specs.has_patches(specs.output(spec, name)):
            found.append(Column(name, "", part(spec, name)))
            continue
        found += [
            Column(f"{name}.{view}", view, part(spec, name, Selection(view="" if view == "all" else view)))
            for view in views
        ]
    if len({column.name for column in found}) != len(found):
        raise InvalidArgumentError("an output or a view is named twice")
    if dynamic := [column.name for column in found if 0 in column.shape]:
        raise InvalidArgumentError(f"{', '.join(dynamic)} of model {spec.name} has no fixed shape")
    specs.cheapest_graph(spec, [column.output for column in found], pixels=True)
    return tuple(found)


def empty(rows: int, found: Sequence[Column], dtype: str) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays for this many pictures, by name."""
    arrays = {column.name: np.empty((rows, *column.shape), dtype) for column in found}
    for array in arrays.values():
        array.fill(0)  # takes the memory now: what a run needs is there from its beginning
    return arrays
