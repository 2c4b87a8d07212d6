"""Models of dynamic size: which image sizes they take, and what their spec is at one of them.

A model of dynamic size, at one size, is like any model of that static size. So whoever asks of shapes,
bytes or patches asks the spec `at` a size, and needs to know no more of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from vitral import spec as specs
from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""


def is_dynamic(spec: pb.ModelSpec) -> bool:
    """Whether callers choose the size."""
    return spec.architecture.HasField("max_size")


def native(spec: pb.ModelSpec) -> Size:
    """The size of a request that names none."""
    return _pair(spec.architecture.image_size)


def described(spec: pb.ModelSpec) -> str:
    """The size in words, none for tokens: `224 x 224, from 64 x 64 to 512 x 512 in steps of 16 x 16`."""
    made, said = spec.architecture, _said(native(spec))
    if not made.HasField("image_size"):
        return "none"
    if not is_dynamic(spec):
        return said
    low, high, patch = (_said(_pair(size)) for size in (made.min_size, made.max_size, made.patch_size))
    return f"{said}, from {low} to {high} in steps of {patch}"


def demand(spec: pb.ModelSpec, size: Size) -> None:
    """Refuses a size that the model does not take.

    Raises:
        InvalidArgumentError: with the sizes it takes.
    """
    made, asked = spec.architecture, f"size {_said(size)} was asked for, but model {spec.name}"
    if not is_dynamic(spec):
        if size != native(spec):
            raise InvalidArgumentError(f"{asked} has the static size {_said(native(spec))}")
        return
    low, high, patch = _pair(made.min_size), _pair(made.max_size), _pair(made.patch_size)
    within = all(least <= side <= most for least, side, most in zip(low, size, high, strict=True))
    if not within or any(side % step for side, step in zip(size, patch, strict=True)):
        steps = f"each side a multiple of its patch's {_said(patch)}"
        raise InvalidArgumentError(f"{asked} takes {_said(low)} to {_said(high)}, {steps}")


def at(spec: pb.ModelSpec, size: Size | None = None) -> pb.ModelSpec:
    """The spec as that of a model of this static size, None for the native one; a static model's own.

    Its preprocessing stays as it was exported; see `vitral_engine.crop.resized` for what becomes of it.

    Raises:
        InvalidArgumentError: the model does not take this size.
    """
    if size is not None:
        demand(spec, size)
    if not is_dynamic(spec):
        return spec
    height, width = size or native(spec)
    made = pb.ModelSpec()
    made.CopyFrom(spec)
    architecture, patch = made.architecture, spec.architecture.patch_size
    architecture.image_size.height, architecture.image_size.width = height, width
    rows, columns = height // patch.height, width // patch.width
    architecture.grid.height, architecture.grid.width = rows, columns
    architecture.ClearField("min_size")
    architecture.ClearField("max_size")
    for graph in made.graphs:
        for axis in graph.input.axes[1:]:
            axis.size = axis.size or {"height": height, "width": width}.get(axis.name, 0)
    for item in made.outputs:
        _lay_out(item, rows, columns)
    return made


def of_row(spec: pb.ModelSpec, shape: Sequence[int]) -> Size | None:
    """The size that a row of the model's own float input has; None for a row that is none of any size."""
    axes = specs.plain_graph(spec).input.axes[1:]
    if len(axes) != len(shape) or any(
        axis.size not in (0, side) for axis, side in zip(axes, shape, strict=True)
    ):
        return None
    sides = {axis.name: side for axis, side in zip(axes, shape, strict=True)}
    return (sides["height"], sides["width"]) if {"height", "width"} <= sides.keys() else None


def _lay_out(item: pb.Output, rows: int, columns: int) -> None:
    """Outputs follow the patch grid: one axis that does is all of it, two are its rows and its columns."""
    free = [axis for axis in item.axes[1:] if not axis.size]
    extents = (rows, columns) if len(free) == 2 else (len(item.prefix_tokens) + rows * columns,)
    for axis, extent in zip(free, extents, strict=False):
        axis.size = extent


def _pair(size: tensor_pb2.ImageSize) -> Size:
    return size.height, size.width


def _said(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
