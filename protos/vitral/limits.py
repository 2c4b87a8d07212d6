"""Limits that both ends of the wire must agree on."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest gRPC message in bytes, request or reply; the same at both ends."""

MAX_FRAME_HEADER_BYTES = 256 * 1024
"""Room left inside a message for everything that is not a payload."""

MAX_REPLY_BYTES = MAX_MESSAGE_BYTES - MAX_FRAME_HEADER_BYTES
"""Most payload bytes of one reply."""

MAX_ITEMS = 256
"""Most images of one request; a server may be told to take another number."""

MAX_ERROR_BYTES = 400
"""Most bytes of one image's error message in a reply."""

MAX_REGION_BYTES = 1024 * 1024 * 1024
"""Largest region of shared memory."""

REGION_ALIGNMENT = 64
"""In a region, a reply and each of its outputs start at a multiple of this."""

MAX_FIELD_NUMBER = 15
"""Highest field number of any message: every tag fits one byte."""

SCHEMA = 1
"""Newest `ModelSpec.schema` this code understands."""
