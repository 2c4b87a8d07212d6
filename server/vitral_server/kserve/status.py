"""Errors that only this protocol has, and Triton's column of the table of status codes."""

from __future__ import annotations

import grpc

from vitral.errors import DeadlineError, QueueFullError, RegionError, UnavailableError, VitralError


class FullError(UnavailableError):
    """The queue is full: UNAVAILABLE in this protocol. Trying again later is right."""

    pushback_ms = QueueFullError.pushback_ms


class RegionNotFoundError(VitralError):
    """No region of shared memory has this name."""

    code = grpc.StatusCode.NOT_FOUND
    reason = RegionError.reason


class RegionExistsError(VitralError):
    """A region of this name is registered already."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = RegionError.reason


class ForeignError(VitralError):
    """Shared memory is for callers on this machine, and for memory of the server's own user."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = RegionError.reason


class RegionMemoryError(VitralError):
    """Shared memory cannot be opened, or is not what was registered any more."""

    code = grpc.StatusCode.INTERNAL
    reason = RegionError.reason


def translated(error: VitralError, *, by_parameter: bool = False) -> VitralError:
    """The error as Triton says it, where it says it otherwise.

    Args:
        error: what the request ended with.
        by_parameter: whether its deadline was that of the request parameter `timeout`.
    """
    if isinstance(error, QueueFullError):
        return FullError(f"Exceeds maximum queue size: {error}")
    if isinstance(error, DeadlineError) and by_parameter:
        return UnavailableError(f"Request timeout expired: {error}")
    return error
