"""Which rows of an output are wanted, and in what form.

The client asks by it, the server and extraction cut by it, and both ends of the wire count bytes by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vitral import spec as specs
from vitral import tensors
from vitral.errors import InvalidArgumentError
from vitral.tensors import ITEM_BYTES, Array
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2

VIEWS = ("cls", "patches", "registers", "mean")
"""Parts of a token sequence (N, D): the CLS token (D,), the patch tokens, the register tokens, and the mean
of the patch tokens (D,), taken in float32."""

DTYPES = ("float32", "float16", "bfloat16", "int8")
"""Element types an output can be asked for in."""

_WIRE = tuple(map(tensors.dtype_named, DTYPES))
_INT8 = tensor_pb2.DATA_TYPE_INT8
_TOKENS = {
    pb.PREFIX_TOKEN_CLS: (
        "CLS token",
        "the CLS row of {} does not depend on the image: it is the same constant",
    ),
    pb.PREFIX_TOKEN_REGISTER: (
        "register tokens",
        "the register rows of {} do not depend on the image: they are the same constants",
    ),
}


@dataclass(frozen=True)
class Rect:
    """A rectangle of the patch grid, its patches in row-major order."""

    row: int
    column: int
    height: int
    width: int

    def __str__(self) -> str:
        """Its extent and place."""
        return f"rectangle of {self.height} x {self.width} patches at row {self.row}, column {self.column}"


@dataclass(frozen=True)
class Selection:
    """What is wanted of an output: rows first, then their length, then their element type.

    Attributes:
        view: one of `VIEWS`; empty: the whole tensor, as the graph gives it.
        patches: indices of patches in row-major order, as often as they are named; empty: all.
        rect: a rectangle of patches; None: all.
        l2_normalize: whether every row, a mean too, is scaled to unit length, in float32. Zeros stay zeros.
        dtype: wire type. int8 has a float32 scale for each row: max |x| / 127, 0 for a row of zeros.

    Raises:
        InvalidArgumentError: they exclude each other.
    """

    view: str = ""
    patches: tuple[int, ...] = ()
    rect: Rect | None = None
    l2_normalize: bool = False
    dtype: int = tensor_pb2.DATA_TYPE_FLOAT32

    def __post_init__(self) -> None:
        """Checks what needs no spec."""
        if self.view not in ("", *VIEWS):
            raise InvalidArgumentError(f"unknown view {self.view!r}; known are {', '.join(VIEWS)}")
        if self.dtype not in _WIRE:
            known = ", ".join(DTYPES)
            raise InvalidArgumentError(f"dtype {tensors.name_of(self.dtype)} is not served; {known} are")
        if self.patches and self.rect:
            raise InvalidArgumentError(f"{len(self.patches)} patches and a {self.rect}: give one of the two")
        if (self.patches or self.rect) and self.view not in ("", "patches"):
            chosen = self.rect or f"choice of {len(self.patches)} patches"
            raise InvalidArgumentError(f"a {chosen} goes with view patches or none, not {self.view}")
        if self.rect and not (self.rect.height and self.rect.width):
            raise InvalidArgumentError(f"a {self.rect} holds none")

    @property
    def rows(self) -> str:
        """The view that is told by the rows there are, `some` for a choice of patches."""
        return "some" if self.patches or self.rect else self.view

    def __str__(self) -> str:
        """In words."""
        rows = str(self.rect) if self.rect else f"{len(self.patches)} chosen patches"
        said = [rows if self.rows == "some" else self.view or "all rows"]
        if self.l2_normalize:
            said.append("unit length")
        return ", ".join([*said, tensors.name_of(self.dtype)])


WHOLE = Selection()
"""The whole tensor in float32: what is sent where nothing is asked for."""


@dataclass(frozen=True)
class Part:
    """A selection of one output of one model.

    Attributes:
        name: of the output.
        selection: what was asked for.
        shape: of one image, without the rows' element type; 0 for a dynamic extent.
        rows: of the token axis; None for all there are.
    """

    name: str
    selection: Selection
    shape: tuple[int, ...]
    rows: int | slice | tuple[int, ...] | None = None

    @property
    def bytes(self) -> int:
        """Payload bytes of one image."""
        scales = 4 * math.prod(self.shape[:-1]) if self.selection.dtype == _INT8 else 0
        return math.prod(self.shape) * ITEM_BYTES[self.selection.dtype] + scales

    def of(self, array: Array) -> Array:
        """The rows of an output (N, D), or of a batch of them (B, N, D): a view where memory allows it."""
        if self.rows is None:
            return array
        if isinstance(self.rows, tuple):
            chosen: Array = np.take(array, self.rows, axis=-2)
            return chosen
        part: Array = array[..., self.rows, :]
        return part.mean(axis=-2, dtype=np.float32) if self.selection.view == "mean" else part


def part(spec: pb.ModelSpec, name: str, selection: Selection = WHOLE) -> Part:
    """The selection of this output.

    Raises:
        InvalidArgumentError: there is no such output, or it has not what is asked for.
    """
    item = specs.output(spec, name)
    shape = specs.item_shape(item.axes)
    if not selection.rows:
        return Part(name, selection, shape)
    if not specs.has_patches(item):
        told = " x ".join(map(str, shape))
        raise InvalidArgumentError(f"output {name} of model {spec.name} is no token sequence but {told}")
    prefix, width = len(item.prefix_tokens), shape[-1]
    if selection.view in ("cls", "registers"):
        kind = pb.PREFIX_TOKEN_CLS if selection.view == "cls" else pb.PREFIX_TOKEN_REGISTER
        found = _prefix_rows(spec, item, kind)
        if selection.view == "cls":
            return Part(name, selection, (width,), found[0])
        return Part(name, selection, (len(found), width), _tight(found))
    behind = slice(prefix, None)
    if selection.view == "mean":
        return Part(name, selection, (width,), behind)
    if selection.rows == "patches":
        return Part(name, selection, (shape[0] and shape[0] - prefix, width), behind)
    chosen = [prefix + index for index in _chosen(spec, item, selection)]
    return Part(name, selection, (len(chosen), width), _tight(chosen))


def _prefix_rows(spec: pb.ModelSpec, item: pb.Output, kind: pb.PrefixToken.ValueType) -> list[int]:
    rows = [row for row, token in enumerate(item.prefix_tokens) if token == kind]
    what, constant = _TOKENS[kind]
    if not rows:
        raise InvalidArgumentError(f"output {item.name} of model {spec.name} has no {what}")
    if not item.image_dependent_prefix:
        raise InvalidArgumentError(f"{constant.format(item.name)} for all")
    return rows


def _chosen(spec: pb.ModelSpec, item: pb.Output, selection: Selection) -> Sequence[int]:
    """Indices of the patches that are chosen."""
    grid, rect = spec.architecture.grid, selection.rect
    where = f"output {item.name} of model {spec.name}"
    if rect is not None:
        if rect.row + rect.height > grid.height or rect.column + rect.width > grid.width:
            told = f"the {grid.height} x {grid.width} patches of {where}"
            raise InvalidArgumentError(f"a {rect} reaches beyond {told}")
        down, across = range(rect.row, rect.row + rect.height), range(rect.column, rect.column + rect.width)
        return [row * grid.width + column for row in down for column in across]
    count = grid.height * grid.width
    if len(selection.patches) > count:
        raise InvalidArgumentError(f"{len(selection.patches)} patches are asked for; {where} has {count}")
    if (largest := max(selection.patches)) >= count:
        raise InvalidArgumentError(f"patch {largest} is asked for; {where} has {count}, the first is 0")
    return selection.patches


def _tight(rows: Sequence[int]) -> slice | tuple[int, ...]:
    """A slice where the rows follow each other: that needs no copy."""
    follow = all(after == before + 1 for before, after in pairwise(rows))
    return slice(rows[0], rows[-1] + 1) if follow else tuple(rows)
