"""What the pictures of a request become: a size, and the parts of outputs that it gives.

All of a request's pictures have one size, but for rows of a model's own float input: where the request
names none, each says its own by its shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from vitral import dynamic, selection
from vitral.dynamic import Size
from vitral.errors import ImageError, InvalidArgumentError
from vitral.selection import Part
from vitral.v1 import model_pb2
from vitral_engine.engine import Model
from vitral_engine.intake import Intake
from vitral_server.call import FLOAT, Door, EmbedCall, Wanted


@dataclass(frozen=True)
class Target:
    """What pictures of one size become.

    Attributes:
        size: their size; None for a model that has but one.
        spec: of the model at this size.
        intake: from pictures to rows.
        wanted: the parts of outputs.
        bytes: that these take.
    """

    size: Size | None
    spec: model_pb2.ModelSpec
    intake: Intake
    wanted: tuple[Part, ...]
    bytes: int


Others: TypeAlias = Mapping[int, Target | ImageError]
"""Index of a picture that is not of the request's own size to what it becomes, or why it becomes nothing."""

NONE: Others = MappingProxyType({})
"""All pictures of a request have its own size."""


def targets(call: EmbedCall, engine: Model, outputs: Sequence[Wanted]) -> tuple[Target, Others]:
    """What the pictures of a call become: the request's own size, and the pictures of others.

    Raises:
        InvalidArgumentError: the model has not what is wanted, or does not take the size.
    """
    rows = _rows(call, engine) if engine.at(None).size is not None and call.size is None else {}
    if not rows:
        return _target(engine, outputs, call.size), NONE
    if all(picture.door is Door.TENSOR for picture in call.pictures):
        return _target(engine, outputs, rows[0]), NONE  # one tensor: all of it has one size
    found: dict[Size, Target | ImageError] = {}
    for size in rows.values():
        if size not in found:
            found[size] = _target_or_error(engine, outputs, size)
    first = next((target for target in found.values() if isinstance(target, Target)), None)
    own = first if first and len(rows) == len(call.pictures) else _target(engine, outputs, None)
    others = {index: found[size] for index, size in rows.items() if found[size] is not own}
    return own, others


def _rows(call: EmbedCall, engine: Model) -> dict[int, Size]:
    """The sizes of the rows of the model's own input, by index; rows that have none are left out."""
    found = {}
    for index, picture in enumerate(call.pictures):
        content = picture.content
        if picture.door in FLOAT and not isinstance(content, ImageError | bytes):
            size = dynamic.of_row(engine.spec, content.shape)
            if size is not None:
                found[index] = size
    return found


def _target_or_error(engine: Model, outputs: Sequence[Wanted], size: Size) -> Target | ImageError:
    try:
        return _target(engine, outputs, size)
    except InvalidArgumentError as error:
        return ImageError(f"prepared is of {size[0]} x {size[1]}: {error}", cause="size")


def _target(engine: Model, outputs: Sequence[Wanted], size: Size | None) -> Target:
    sized = engine.at(size)
    wanted = tuple(selection.part(sized.spec, want.name, want.selection) for want in outputs)
    return Target(sized.size, sized.spec, sized.intake, wanted, sum(part.bytes for part in wanted))
