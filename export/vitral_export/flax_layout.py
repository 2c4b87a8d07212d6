"""What a Google checkpoint says by its names and shapes: which layout it has, and the sizes of its model."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral_export.flax_checkpoint import PROJECTION, Archive

BLOCK = "Transformer/encoderblock"
"""Name of all blocks where they are stacked; `_0`, `_1`, ... stands behind it where they are not."""

MAP_HEAD = "MAPHead_0"
"""big_vision's head: a learned query that attends to all tokens."""

_NUMBERED = re.compile(BLOCK + r"_(\d+)/")
_RESNET = "conv_root/kernel"
_SHOWN = 5  # names that a message lists


@dataclass(frozen=True)
class Layout:
    """The names that differ between the two projects.

    Attributes:
        positions: position embeddings.
        attention: self-attention in a block.
        norm: a block's second LayerNorm.
        mlp: a block's MLP.
    """

    positions: str
    attention: str
    norm: str
    mlp: str


ORIGINAL = Layout(
    positions="Transformer/posembed_input/pos_embedding",
    attention="MultiHeadDotProductAttention_1",
    norm="LayerNorm_2",
    mlp="MlpBlock_3",
)
"""Of vision_transformer."""

BIG_VISION = Layout(
    positions="pos_embedding",
    attention="MultiHeadDotProductAttention_0",
    norm="LayerNorm_1",
    mlp="MlpBlock_0",
)
"""Of big_vision."""


@dataclass(frozen=True)
class Sizes:
    """The model that an archive is of.

    Attributes:
        layout: its names.
        stacked: whether an array holds all blocks' values, block by block.
        width, heads, depth, hidden: of tokens, of attention, of the encoder, inside an MLP.
        patch, grid, channels: sides in pixels and in patches, and channels of the image.
        cls: whether there is a CLS token.
        cls_position: whether it has a position.
        pooled: width of `pre_logits`; None where there is none.
        attention_pooled: whether there is a MAP head.
    """

    layout: Layout
    stacked: bool
    width: int
    heads: int
    depth: int
    hidden: int
    patch: int
    grid: int
    channels: int
    cls: bool
    cls_position: bool
    pooled: int | None
    attention_pooled: bool


def read(archive: Archive) -> Sizes:
    """The sizes of an archive's model.

    Raises:
        InvalidArgumentError: an array that says one of them is missing or of another form.
        UnsupportedError: a ResNet makes its patches.
    """
    shapes, name = archive.shapes, archive.name
    if _RESNET in shapes:
        raise UnsupportedError(f"{name} is a hybrid: a ResNet ({_RESNET}) makes its patches")
    stacked = any(key.startswith(BLOCK + "/") for key in shapes)
    layout = BIG_VISION if stacked or BIG_VISION.positions in shapes else ORIGINAL
    first = BLOCK if stacked else f"{BLOCK}_0"
    query, dense = f"{first}/{layout.attention}/query/kernel", f"{first}/{layout.mlp}/Dense_0/kernel"
    refuse(name, "lacks", [key for key in (layout.positions, query, dense) if key not in shapes])
    height, patch, channels, width = _extents(archive, PROJECTION, 4)
    if height != patch:
        raise InvalidArgumentError(f"{name} has patches of {height} x {patch}: they have to be square")
    of_width, heads, of_head = _extents(archive, query, 3, stacked=stacked)
    if of_width != width or heads * of_head != width:
        said = f"{of_width} x {heads} x {of_head}"
        raise InvalidArgumentError(f"{name}: {query} is {said}: its heads are not of {width} in all")
    cls = "cls" in shapes
    grid, cls_position = _grid(archive, layout.positions, cls=cls)
    numbers = {found[1] for key in shapes if (found := _NUMBERED.match(key))}
    return Sizes(
        layout=layout,
        stacked=stacked,
        width=width,
        heads=heads,
        depth=shapes[query][0] if stacked else len(numbers),
        hidden=_extents(archive, dense, 2, stacked=stacked)[1],
        patch=patch,
        grid=grid,
        channels=channels,
        cls=cls,
        cls_position=cls_position,
        pooled=_extents(archive, "pre_logits/kernel", 2)[1] if "pre_logits/kernel" in shapes else None,
        attention_pooled=any(key.startswith(MAP_HEAD + "/") for key in shapes),
    )


def refuse(name: str, what: str, keys: Collection[str]) -> None:
    """Refuses an archive for these names, if there are any.

    Raises:
        InvalidArgumentError: with the first five.
    """
    if keys:
        more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
        raise InvalidArgumentError(f"{name} {what} {', '.join(list(keys)[:_SHOWN])}{more}")


def _extents(archive: Archive, key: str, rank: int, *, stacked: bool = False) -> tuple[int, ...]:
    """The extents of one block's array, all of them positive."""
    shape = archive.shapes[key]
    if len(shape) != rank + stacked or 0 in shape:
        raise InvalidArgumentError(f"{archive.name}: {key} is {shape}, {rank + stacked} axes are expected")
    return shape[1:] if stacked else shape


def _grid(archive: Archive, key: str, *, cls: bool) -> tuple[int, bool]:
    """Patches along a side, and whether the CLS token has a position; big_vision gives it none."""
    _, count, _ = _extents(archive, key, 3)
    for prefix in (1, 0) if cls else (0,):
        side = math.isqrt(count - prefix)
        if side and side * side == count - prefix:
            return side, prefix == 1
    raise InvalidArgumentError(f"{archive.name}: {key} has {count} positions, which are no square grid")
