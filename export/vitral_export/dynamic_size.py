"""Dynamic height and width: which sizes a model is proven at, and what it says of itself then."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vitral.errors import ProofError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export.loaded import Loaded, pixel_input
from vitral_export.wrap import Inference

Size = tuple[int, int]
"""Height and width in pixels."""

MOST_TOKENS = 48 * 48
"""Most patches of the largest proven size, unless the native one has more: attention costs their square."""

_AXES = ["batch", "channel", "height", "width"]
_LONGEST = 300  # characters of a stranger's message


@dataclass(frozen=True)
class Sizes:
    """The sizes at which a model of dynamic size is exported and proven.

    Attributes:
        native: the module's own.
        traced: of the example: not square, and of another number of patches than the native one, so that
            nothing that holds there only can become part of the graph.
        twin: `traced` with rows and columns of patches exchanged. It has as many patches: a graph that mixes
            both up is wrong here without failing.
        corners: the smallest and the largest of each side with those of the other.
    """

    native: Size
    traced: Size
    twin: Size
    corners: tuple[Size, ...]

    @property
    def proven(self) -> tuple[Size, ...]:
        """All of them, the native one first."""
        return tuple(dict.fromkeys((self.native, self.traced, self.twin, *self.corners)))

    @property
    def compared(self) -> tuple[Size, ...]:
        """Those at which structure is compared."""
        return tuple(dict.fromkeys((self.traced, self.twin, self.native, self.corners[-1])))

    @property
    def golden(self) -> tuple[Size, ...]:
        """Those of the golden rows that travel beside the native ones."""
        return (self.traced, self.twin)


def sizes(architecture: pb.Architecture) -> Sizes:
    """The sizes for a module of this native size and patch."""
    patch, grid = architecture.patch_size, architecture.grid
    rows, columns = grid.height, grid.width
    side = max(rows, columns)
    most = max(side, 3, min(2 * side, math.isqrt(MOST_TOKENS)))
    high = max(2, 5 * rows // 7)
    wide = max(3, min(most, 12 * columns // 7))
    while wide == high or wide * high == rows * columns:
        wide -= 1
    ends = (1, most)
    return Sizes(
        native=(rows * patch.height, columns * patch.width),
        traced=(high * patch.height, wide * patch.width),
        twin=(wide * patch.height, high * patch.width),
        corners=tuple((row * patch.height, column * patch.width) for row in ends for column in ends),
    )


def is_dynamic(architecture: pb.Architecture) -> bool:
    """Whether a model takes images of several sizes."""
    return architecture.HasField("max_size")


def said(size: Size) -> str:
    """`160 x 384`."""
    return f"{size[0]} x {size[1]}"


def row_shape(axes: Sequence[pb.Axis], size: Size | None) -> tuple[int, ...]:
    """Extents of one row of an input, its dynamic height and width those of `size`."""
    given = {} if size is None else {"height": size[0], "width": size[1]}
    return tuple(axis.size or given[axis.name] for axis in axes[1:])


def widened(loaded: Loaded) -> Loaded:
    """The source as a model of dynamic height and width; the module is run at several sizes to see it.

    Raises:
        UnsupportedError: it is static, and why.
    """
    own, name = loaded.architecture, loaded.architecture.module
    if loaded.static:
        raise UnsupportedError(f"{name} is static: {loaded.static}")
    if [axis.name for axis in loaded.input.axes] != _AXES:
        raise UnsupportedError(f"{name} is static: it does not take images")
    known = sizes(own)
    wide = replace(loaded, compute=loaded.resized or loaded.compute)
    wrapped = Inference(wide)
    found = {size: _given(wrapped, size, own) for size in (known.native, known.traced, known.twin)}
    if loaded.resized is not None:
        _demand_native(loaded, found[known.native], known.native)
    outputs = [
        _output(item, own, {size: tuple(given[at].shape) for size, given in found.items()})
        for at, item in enumerate(loaded.outputs)
    ]
    architecture = pb.Architecture()
    architecture.CopyFrom(own)
    architecture.min_size.CopyFrom(_image_size(known.corners[0]))
    architecture.max_size.CopyFrom(_image_size(known.corners[-1]))
    taken = pixel_input(channels=own.in_channels, height=0, width=0)
    return replace(wide, input=taken, outputs=tuple(outputs), architecture=architecture)


def _given(wrapped: Inference, size: Size, own: pb.Architecture) -> tuple[Tensor, ...]:
    """What the module gives for one image of this size."""
    with torch.inference_mode():
        try:
            return wrapped(torch.zeros(1, own.in_channels, *size))  # type: ignore[no-any-return]
        except ProofError:
            raise
        except Exception as error:  # whatever a module raises that knows one size only
            reason = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
            raise UnsupportedError(f"{own.module} is static: {reason}") from error


def _demand_native(loaded: Loaded, found: tuple[Tensor, ...], size: Size) -> None:
    """Refuses a module that gives something else at its own size once it takes any."""
    plain = _given(Inference(loaded), size, loaded.architecture)
    for item, one, other in zip(loaded.outputs, plain, found, strict=True):
        if not torch.equal(one, other):
            raise UnsupportedError(
                f"{loaded.architecture.module} is static: asked for any size, it gives other values of "
                f"{item.name} at its native {said(size)} too"
            )


def _output(item: pb.Output, own: pb.Architecture, shapes: Mapping[Size, tuple[int, ...]]) -> pb.Output:
    """An output whose axes that follow the size are dynamic: one over all tokens, or rows and columns."""
    wide = pb.Output()
    wide.CopyFrom(item)
    free = [
        at
        for at, axis in enumerate(item.axes)
        if axis.name == "token" or len({shape[at] for shape in shapes.values()}) > 1
    ]
    patch = own.patch_size
    for size, shape in shapes.items():
        rows, columns = size[0] // patch.height, size[1] // patch.width
        tokens = (rows * columns + len(item.prefix_tokens),)
        given, needed = tuple(shape[at] for at in free), (rows, columns) if len(free) == 2 else tokens
        if free and given != needed:
            raise UnsupportedError(
                f"{own.module} is static: {item.name} is {given} at {said(size)}, which does not follow "
                f"{rows} x {columns} patches"
            )
    for at in free:
        wide.axes[at].size = 0
    return wide


def _image_size(size: Size) -> tensor_pb2.ImageSize:
    return tensor_pb2.ImageSize(height=size[0], width=size[1])
