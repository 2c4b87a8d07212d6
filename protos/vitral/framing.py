"""Raw payloads in the top level of a message, written and read without the generated classes.

A message with tensors is a small header, an ordinary protobuf message, followed by `payloads`: field 15,
length-delimited, one for each tensor. Writing is one join; reading is a walk over the top level that returns
views. Both the request and the reply are framed this way, and a reader accepts any field order. KServe's
messages are of the same form, with other field numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from numpy.typing import NDArray

from vitral.errors import InvalidArgumentError

PAYLOAD_FIELD = 15
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


Buffer: TypeAlias = bytes | memoryview | NDArray[Any]
"""Anything with contiguous bytes."""


def join(header: bytes, payloads: Iterable[Buffer | list[Buffer]], *, field: int = PAYLOAD_FIELD) -> bytes:
    """The message of this header and these payloads: the one copy of the payload bytes.

    Args:
        header: everything else.
        payloads: each one buffer, or the buffers that follow each other in it.
        field: number of the payloads' field, at most 15.
    """
    tag, parts = _tag(field), [header]
    for payload in payloads:
        pieces: list[Any] = payload if isinstance(payload, list) else [payload]
        parts.append(tag + _varint(sum(map(_size, pieces))))
        parts += pieces
    return b"".join(parts)


def nested(header: bytes, payloads: Iterable[int], *, within: int) -> bytes:
    """The header of a message with payloads of these lengths that is itself field `within` of another.

    What `join` makes of it is the outer message.
    """
    return _tag(within) + _varint(framed_bytes(len(header), payloads)) + header


def framed_bytes(header: int, payloads: Iterable[int]) -> int:
    """Bytes of a message with a header and payloads of these lengths."""
    return header + sum(1 + len(_varint(size)) + size for size in payloads)


def split(
    message: bytes, *, max_fields: int | None = None, field: int = PAYLOAD_FIELD
) -> tuple[bytes, list[memoryview]]:
    """The header, and a view of each payload in order.

    Args:
        message: a whole message.
        max_fields: most top-level fields; a message of a stranger may hold millions of empty ones.
        field: number of the payloads' field.

    Raises:
        InvalidArgumentError: the bytes are no protobuf message, or it has too many fields.
    """
    whole, end, at, kept, fields = memoryview(message), len(message), 0, 0, 0
    header: list[memoryview] = []
    payloads: list[memoryview] = []
    while at < end:
        start, fields = at, fields + 1
        if max_fields is not None and fields > max_fields:
            raise InvalidArgumentError(f"the message has more than {max_fields} items, outputs and payloads")
        tag, at = _read_varint(message, at)
        wire = tag & 7
        if wire == _BYTES:
            size, at = _read_varint(message, at)
            at += size
            if tag >> 3 == field and at <= end:
                header.append(whole[kept:start])
                payloads.append(whole[at - size : at])
                kept = at
        elif wire == _VARINT:
            _, at = _read_varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise InvalidArgumentError(f"malformed message: wire type {wire} at byte {start}")
        if at > end:
            raise InvalidArgumentError(f"malformed message: field at byte {start} runs past the end, {end}")
    if not payloads:
        return message, payloads
    return b"".join([*header, whole[kept:]]), payloads


def _tag(field: int) -> bytes:
    return bytes([field << 3 | _BYTES])


def _size(piece: Any) -> int:
    return len(piece) if isinstance(piece, bytes) else int(piece.nbytes)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise InvalidArgumentError(f"malformed message: unfinished varint at byte {at}")
