"""Which arrays a run writes, and which part of the model's outputs each of them is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitral import spec as specs
from vitral.errors import InvalidArgumentError
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
        output: the model's output.
        view: one of `VIEWS`; empty for outputs that are no token sequence.
        shape: of one picture.
        prefix: tokens in front of the patches.
        cls: index of the CLS token among them.
    """

    name: str
    output: str
    view: str
    shape: tuple[int, ...]
    prefix: int = 0
    cls: int = 0

    def of(self, array: Array) -> Array:
        """The part of an output (N, D), or of a batch of them (B, N, D); means are taken in float32."""
        if self.view == "patches":
            return array[..., self.prefix :, :]
        if self.view == "cls":
            return array[..., self.cls, :]
        if self.view == "mean":
            mean: Array = array[..., self.prefix :, :].mean(axis=-2, dtype=np.float32)
            return mean
        return array

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
        item = specs.output(spec, name)
        shape = specs.item_shape(item.axes)
        if not specs.has_patches(item):
            found.append(Column(name, name, "", shape))
            continue
        found += [_column(spec, item, view, shape) for view in views]
    if len({column.name for column in found}) != len(found):
        raise InvalidArgumentError("an output or a view is named twice")
    if dynamic := [column.name for column in found if 0 in column.shape]:
        raise InvalidArgumentError(f"{', '.join(dynamic)} of model {spec.name} has no fixed shape")
    specs.cheapest_graph(spec, [column.output for column in found], pixels=True)
    return tuple(found)


def _column(spec: pb.ModelSpec, item: pb.Output, view: str, shape: tuple[int, ...]) -> Column:
    prefix, tokens = list(item.prefix_tokens), shape[0]
    if view == "cls":
        if pb.PREFIX_TOKEN_CLS not in prefix:
            raise InvalidArgumentError(f"output {item.name} of model {spec.name} has no CLS token")
        if not item.image_dependent_prefix:
            raise InvalidArgumentError(
                f"the CLS row of {item.name} does not depend on the image: it is the same constant for all"
            )
    extents = {"patches": (tokens - len(prefix), *shape[1:]), "all": shape}.get(view, shape[1:])
    cls = prefix.index(pb.PREFIX_TOKEN_CLS) if pb.PREFIX_TOKEN_CLS in prefix else 0
    return Column(f"{item.name}.{view}", item.name, view, extents, len(prefix), cls)


def empty(rows: int, found: Sequence[Column], dtype: str) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays for this many pictures, by name."""
    arrays = {column.name: np.empty((rows, *column.shape), dtype) for column in found}
    for array in arrays.values():
        array.fill(0)  # takes the memory now: what a run needs is there from its beginning
    return arrays
