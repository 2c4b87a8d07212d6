"""An Embed request as the server thinks of it, free of message types."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vitral.errors import ImageError
from vitral.selection import WHOLE, Selection
from vitral.tensors import Array


class Door(Enum):
    """How a picture came in."""

    ENCODED = "encoded"
    PIXELS = "pixels"
    PREPARED = "prepared"
    TENSOR = "tensor"
    """As prepared, whatever its values: a row as the float graph takes it, of its shape and type."""


FLOAT = (Door.PREPARED, Door.TENSOR)
"""Doors of rows for a float graph."""


@dataclass(frozen=True)
class Picture:
    """One item: what came through which door, or why it cannot be read."""

    door: Door
    content: bytes | Array | ImageError


@dataclass(frozen=True)
class Wanted:
    """One output, and what is wanted of it."""

    name: str
    selection: Selection = WHOLE


@dataclass(frozen=True)
class Shared:
    """A range of shared memory.

    Attributes:
        region: name of the region.
        offset: of the range in the region.
        memory: its bytes, (size,) uint8, which the caller can write too.
    """

    region: str
    offset: int
    memory: Array


@dataclass(frozen=True)
class EmbedCall:
    """One request.

    Attributes:
        model: name, or empty for the only one served.
        version: version, or empty for the newest that is ready.
        pictures: the items in order.
        outputs: what is wanted; empty for the defaults.
        size: (height, width), or None for the native size.
        max_reply_bytes: the caller's own limit.
        fingerprint: the one demanded, or empty.
        request_bytes: size of the message.
        reply: shared memory for the outputs; None: they go into the reply.
    """

    model: str
    version: str
    pictures: tuple[Picture, ...]
    outputs: tuple[Wanted, ...]
    size: tuple[int, int] | None
    max_reply_bytes: int
    fingerprint: str
    request_bytes: int
    reply: Shared | None = None
