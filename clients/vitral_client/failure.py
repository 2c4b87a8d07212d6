"""From the way a call ended to an error of vitral."""

from __future__ import annotations

from typing import cast

import grpc

from vitral.errors import REASON_KEY, UnavailableError, VitralError, from_status


class LostError(UnavailableError):
    """No server said this: there was none, or the connection broke under the call."""


def of_call(error: grpc.RpcError, *, address: str, seconds: float) -> VitralError:
    """The error of vitral this call ended with.

    Args:
        error: what gRPC raised.
        address: the server that was called.
        seconds: the time the whole call was given.
    """
    call = cast(grpc.Call, error)
    code, details = call.code(), call.details() or ""
    reason = next((value for key, value in call.trailing_metadata() or () if key == REASON_KEY), None)
    if isinstance(reason, bytes):
        reason = reason.decode("ascii", "replace")
    # Without a reason it was gRPC that gave up, and its words name neither server nor deadline.
    if reason is None and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = f"no answer from {address} within {seconds:g} s"
    elif reason is None and code is grpc.StatusCode.UNAVAILABLE:
        return LostError(f"no server answers at {address}: {details}")
    elif reason is None and details:
        details = f"the call to {address} failed: {details}"
    return from_status(code, details or f"{address} ended the call with {code.name}", reason)
