"""The standard health check, grpc.health.v1, written by hand.

A copy of its proto would clash with the real one in a process that has both.
"""

from __future__ import annotations

from enum import StrEnum

CHECK = "/grpc.health.v1.Health/Check"
"""Path of the method."""


class Health(StrEnum):
    """What a server says of itself, or of one of its models."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"


_STATUS = {
    b"\x08\x01": Health.SERVING,
    b"\x08\x02": Health.NOT_SERVING,
    b"\x08\x03": Health.SERVICE_UNKNOWN,
}


def check_request(service: str) -> bytes:
    """`HealthCheckRequest`: one string, field 1. The empty name asks for the server as a whole."""
    name = service.encode()
    if not name:
        return b""
    size, left = bytearray(), len(name)
    while left > 0x7F:
        size.append(left & 0x7F | 0x80)
        left >>= 7
    return b"\x0a" + bytes([*size, left]) + name


def check_response(message: bytes) -> Health:
    """The status in a `HealthCheckResponse`: one enum, field 1; absent for UNKNOWN."""
    return _STATUS.get(message, Health.UNKNOWN)
