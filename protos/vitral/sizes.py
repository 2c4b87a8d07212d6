"""Bytes of a reply, before there is one: the server refuses by them, the client cuts its requests by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from vitral import selection as selections
from vitral.errors import InvalidArgumentError
from vitral.limits import MAX_ERROR_BYTES, MAX_MESSAGE_BYTES, MAX_REPLY_BYTES, REGION_ALIGNMENT
from vitral.selection import Selection
from vitral.v1 import model_pb2 as pb

Wanted: TypeAlias = Sequence[tuple[str, Selection]]
"""Name of each output, and what is wanted of it."""

_FIXED = 1024


def header_bytes(wanted: Wanted, images: int) -> int:
    """Room for everything in a reply that is no payload; an error's message is cut to fit it."""
    return _header_of_all(wanted) + images * _header_of_one(wanted)


def payload_bytes(spec: pb.ModelSpec, wanted: Wanted, images: int = 1) -> int:
    """Payload bytes of the reply to so many images; what the model does not have counts as nothing."""
    return images * sum(_bytes(spec, name, selection) for name, selection in wanted)


def shared_places(spec: pb.ModelSpec, wanted: Wanted) -> tuple[list[int], int]:
    """Where in shared memory each output of an image starts, and the bytes from one image to the next.

    The names must be the model's.
    """
    starts, end = [], 0
    for pair in wanted:
        starts.append(end)
        end += aligned(payload_bytes(spec, [pair]))
    return starts, end


def aligned(size: int) -> int:
    """The size, rounded up to where the next output may start."""
    return -(-size // REGION_ALIGNMENT) * REGION_ALIGNMENT


def most_images(spec: pb.ModelSpec, wanted: Wanted) -> int:
    """Most images whose reply crosses no limit; 1 also where that of a single one does."""
    payload, header = payload_bytes(spec, wanted), _header_of_one(wanted)
    by_message = (MAX_MESSAGE_BYTES - _header_of_all(wanted)) // (payload + header)
    by_payload = MAX_REPLY_BYTES // payload if payload else by_message
    return max(1, min(by_message, by_payload))


def _bytes(spec: pb.ModelSpec, name: str, selection: Selection) -> int:
    try:
        return selections.part(spec, name, selection).bytes
    except InvalidArgumentError:
        return 0


def _header_of_all(wanted: Wanted) -> int:
    """Names, timings, and what was done: an index takes five bytes at most."""
    return _FIXED + sum(64 + len(name.encode()) + 5 * len(chosen.patches) for name, chosen in wanted)


def _header_of_one(wanted: Wanted) -> int:
    return max(2 * MAX_ERROR_BYTES, sum(96 + len(name.encode()) for name, _ in wanted))
