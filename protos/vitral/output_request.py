"""Selections as they are on the wire: the message OutputRequest, asked for and answered."""

from __future__ import annotations

from vitral.errors import InvalidArgumentError
from vitral.selection import Rect, Selection
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import tensor_pb2

MAX_PATCHES = 1 << 16
"""Most indices of one output: a message of a stranger may hold millions."""

_VIEWS = {
    "": pb.TOKEN_VIEW_UNSPECIFIED,
    "cls": pb.TOKEN_VIEW_CLS,
    "patches": pb.TOKEN_VIEW_PATCHES,
    "registers": pb.TOKEN_VIEW_REGISTERS,
    "mean": pb.TOKEN_VIEW_PATCH_MEAN,
}
_NAMES = {number: name for name, number in _VIEWS.items()}


def write(name: str, selection: Selection) -> pb.OutputRequest:
    """The message that asks for this, or says that it was done."""
    message = pb.OutputRequest(name=name, view=_VIEWS[selection.view], l2_normalize=selection.l2_normalize)
    message.dtype = tensor_pb2.DataType.ValueType(selection.dtype)
    message.patches.extend(selection.patches)
    if (rect := selection.rect) is not None:
        message.rect.row, message.rect.column = rect.row, rect.column
        message.rect.height, message.rect.width = rect.height, rect.width
    return message


def read(message: pb.OutputRequest) -> Selection:
    """The selection in a message.

    Raises:
        InvalidArgumentError: it contradicts itself, or has what the contract does not know.
    """
    where = f"output {message.name}" if message.name else "an output without a name"
    if message.view not in _NAMES:
        raise InvalidArgumentError(f"{where}: view {message.view} is unknown; known are 0 to {max(_NAMES)}")
    if len(message.patches) > MAX_PATCHES:
        raise InvalidArgumentError(f"{where}: {len(message.patches)} patches; the limit is {MAX_PATCHES}")
    rect = message.rect
    try:
        return Selection(
            view=_NAMES[message.view],
            patches=tuple(message.patches),
            rect=Rect(rect.row, rect.column, rect.height, rect.width) if message.HasField("rect") else None,
            l2_normalize=message.l2_normalize,
            dtype=message.dtype or tensor_pb2.DATA_TYPE_FLOAT32,
        )
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{where}: {error}") from None
