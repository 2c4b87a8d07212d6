"""Every error vitral raises, each with its gRPC status. One table maps both ways.

The server sends the class's `reason` in the trailing metadata `vitral-error`, so that the client raises the
same class; against a peer that sends none, the status code decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import grpc

REASON_KEY = "vitral-error"
"""Trailing metadata that carries the reason."""

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata gRPC's own retry policy obeys; -1 forbids the retry."""


class VitralError(Exception):
    """Base of all errors of vitral. `str(error)` is one sentence that names the numbers."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    reason: ClassVar[str] = "unknown"
    pushback_ms: ClassVar[int | None] = None


class InvalidArgumentError(VitralError, ValueError):
    """The request, or an argument, is not valid and will not be on a second try."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "invalid_argument"


class ModelNotFoundError(VitralError, LookupError):
    """There is no such model, or no such version of it."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "model_not_found"


class FingerprintMismatchError(VitralError):
    """The model has another fingerprint than the one demanded: another embedding space."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "fingerprint_mismatch"


class RegionError(VitralError):
    """A region of shared memory cannot be used: not registered, not local, or not large enough."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "region"


class QueueFullError(VitralError):
    """The server holds as much work as it accepts; trying again later is right."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "queue_full"
    pushback_ms = 50


class TooLargeError(VitralError):
    """A request or its reply crosses a size limit; no retry can cure it."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "too_large"
    pushback_ms = -1


class DeadlineError(VitralError, TimeoutError):
    """The deadline passed before the answer was there."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "deadline"


class UnavailableError(VitralError, ConnectionError):
    """The server is draining, not reachable, or the model is not ready."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "unavailable"


class CancelledError(VitralError):
    """The call was cancelled."""

    code = grpc.StatusCode.CANCELLED
    reason = "cancelled"


class UnsupportedError(VitralError, NotImplementedError):
    """The contract has it, this server does not yet."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "unsupported"


class ServerError(VitralError):
    """A fault of the server; the message carries an id that its log explains."""

    code = grpc.StatusCode.INTERNAL
    reason = "internal"


class ImageError(VitralError, ValueError):
    """One image could not be embedded.

    Attributes:
        cause: short constant name: `truncated`, `mode`, `too_many_pixels` and so on.
        index: position in the request, or None when the image was not part of one.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "image"

    def __init__(self, message: str, *, cause: str, index: int | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles with its keyword arguments: errors travel between processes as data."""
        return partial(type(self), cause=self.cause, index=self.index), self.args


class ImageErrors(VitralError):  # noqa: N818  (a group of errors)
    """Some images of a request failed; the others' results are here.

    Attributes:
        results: one entry for each image, its embedding or its `ImageError`.
        errors: the failed ones by index.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "images"

    def __init__(self, results: Sequence[object]) -> None:
        self.results = list(results)
        self.errors: Mapping[int, ImageError] = {
            index: result for index, result in enumerate(self.results) if isinstance(result, ImageError)
        }
        first = "; ".join(f"[{index}] {error}" for index, error in list(self.errors.items())[:3])
        more = f" and {len(self.errors) - 3} more" if len(self.errors) > 3 else ""
        super().__init__(f"{len(self.errors)} of {len(self.results)} images failed: {first}{more}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles with the results, from which the message is made."""
        return type(self), (self.results,)


class ArtifactError(VitralError):
    """A model folder is missing something, was changed, or contradicts itself."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "artifact"


class ProofError(VitralError):
    """A model does not agree with its proof."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "proof"


class DeviceError(VitralError):
    """The device that was asked for does not work here."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "device"


ON_THE_WIRE: tuple[type[VitralError], ...] = (
    InvalidArgumentError,
    ModelNotFoundError,
    RegionError,
    FingerprintMismatchError,
    QueueFullError,
    TooLargeError,
    DeadlineError,
    UnavailableError,
    CancelledError,
    UnsupportedError,
    ServerError,
)
"""Classes a call may end with. Of two with the same code, the later one stands for the bare code."""

_BY_REASON = {cls.reason: cls for cls in ON_THE_WIRE}
_BY_CODE = {cls.code: cls for cls in ON_THE_WIRE}


def from_status(code: grpc.StatusCode, message: str, reason: str | None = None) -> VitralError:
    """The error a call ended with: by the reason its peer sent, else by the status code."""
    cls = _BY_REASON.get(reason or "") or _BY_CODE.get(code, ServerError)
    return cls(message)


def trailers(error: VitralError) -> tuple[tuple[str, str], ...]:
    """Trailing metadata of a call that ends with this error."""
    pairs = [(REASON_KEY, error.reason)]
    if error.pushback_ms is not None:
        pairs.append((PUSHBACK_KEY, str(error.pushback_ms)))
    return tuple(pairs)
