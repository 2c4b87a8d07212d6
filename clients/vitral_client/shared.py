"""Tensors through shared memory, without the waiting: when it is registered, and what follows where it fails.

Whatever cannot be answered this way for a passing reason is asked once more the ordinary way, which repeats
refused calls.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Literal, TypeAlias

from vitral.errors import (
    FingerprintMismatchError,
    InvalidArgumentError,
    ModelNotFoundError,
    QueueFullError,
    RegionError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from vitral.limits import MAX_MESSAGE_BYTES
from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import reply
from vitral_client.call import SERVICE, Call, Deadline, Job, Steps
from vitral_client.channel import Road, is_one_local
from vitral_client.failure import LostError
from vitral_client.memory import REGION_BYTES, Range, Region
from vitral_client.request import Request, frame_shared

Transport: TypeAlias = Literal["grpc", "shm", "auto"]

_TRANSPORTS = ("grpc", "shm", "auto")

_SMALL = 1 << 20
"""Bytes that are copied in less time than a thread takes to start."""

_WRITTEN_NOTHING = (
    FingerprintMismatchError,
    InvalidArgumentError,
    ModelNotFoundError,
    TooLargeError,
    UnsupportedError,
)
"""Errors the server answers with; where one comes, none of its threads writes any more."""


class Sharing:
    """A client's shared memory. Threads may share one.

    Args:
        required: whether a server that refuses shared memory is an error.
        size: bytes of a region.
    """

    def __init__(self, *, required: bool, size: int) -> None:
        self._required, self._size = required, size
        self._region: Region | None = None
        self._registering = threading.Lock()
        self._off = False

    def ask(
        self, request: Request, size: int, deadline: Deadline
    ) -> Steps[reply.Reply[pb.EmbedResponse] | None]:
        """The reply to a request, `size` bytes of outputs in shared memory; None: ask the ordinary way.

        Raises:
            VitralError: the call failed.
        """
        for _ in range(2):
            region = (yield from self.region(deadline)) if size else None
            lent = region.lend(size) if region is not None else None
            if region is None or lent is None:
                return None
            sent = region.lend(request.shared_bytes) if request.shared_bytes else None
            message = yield from _framed(request, sent, lent)
            try:
                if len(message) > MAX_MESSAGE_BYTES:
                    lent.give_back()
                    return None
                return (yield from _exchange(Call(f"{SERVICE}/Embed", message, deadline, Road.ONCE), lent))
            except RegionError:
                self._forget(region)  # the server is another one than it was, say
            except (QueueFullError, UnavailableError):
                return None
            finally:
                if sent is not None:
                    sent.give_back()  # a server that still reads there does so for nobody
        return None

    def close(self) -> None:
        """Lets go of the memory; results stay valid."""
        self._off = True
        if self._region is not None:
            self._forget(self._region)

    def region(self, deadline: Deadline) -> Steps[Region | None]:
        """The region, registered; None while another caller does that, or where there is to be none.

        Raises:
            VitralError: it cannot be registered, and has to be.
        """
        if self._off:
            return None
        region = self._region
        if region is not None and region.lost * 2 > region.size:
            self._forget(region)
            region = None
        if region is not None or not self._registering.acquire(blocking=False):
            return region
        try:
            self._region = region = self._region or (yield from self._register(deadline))
        except LostError:
            return None
        except (RegionError, UnsupportedError):
            if self._required:
                raise
            self._off = True
            return None
        finally:
            self._registering.release()
        return region

    def _register(self, deadline: Deadline) -> Steps[Region]:
        try:
            region = Region(self._size)
        except OSError as error:
            raise UnsupportedError(
                f"{self._size} bytes of shared memory are not to be had: {error}"
            ) from None
        request = pb.RegisterRegionRequest(
            process=os.getpid(), descriptor=region.descriptor, size=region.size, proof=region.proof
        )
        answer: bytes = yield Call(f"{SERVICE}/RegisterRegion", request.SerializeToString(), deadline)
        region.name = reply.message(pb.RegisterRegionResponse, answer).region
        return region

    def _forget(self, region: Region) -> None:
        region.close()
        if self._region is region:
            self._region = None


def sharing(transport: Transport, address: str) -> Sharing | None:
    """What the argument of a client means; None: no shared memory.

    Raises:
        InvalidArgumentError: it means nothing, or the server is not on this machine.
    """
    if transport not in _TRANSPORTS:
        raise InvalidArgumentError(f"transport is one of {', '.join(_TRANSPORTS)}, not {transport!r}")
    if transport == "grpc":
        return None
    if not is_one_local(address):
        if transport == "auto":
            return None
        told = "it takes 127.0.0.1:PORT, localhost:PORT, [::1]:PORT or unix:PATH"
        raise InvalidArgumentError(f"shared memory needs one server on this machine, not {address}: {told}")
    return Sharing(required=transport == "shm", size=REGION_BYTES)


def _framed(request: Request, sent: Range | None, lent: Range) -> Steps[bytes]:
    """The message; its tensors are copied into shared memory."""
    ranges = [lent, sent] if sent is not None else [lent]
    try:
        blocks = request.shared_bytes > _SMALL
        message: bytes = yield Job(partial(frame_shared, request, sent, lent), blocks=blocks)
    except Exception:
        for one in ranges:
            one.give_back()
        raise
    except BaseException:  # the caller left, and a thread may still be copying
        for one in ranges:
            one.lose()
        raise
    return message


def _exchange(call: Call, lent: Range) -> Steps[reply.Reply[pb.EmbedResponse]]:
    """One call; what becomes of the range is decided by how it ended."""
    try:
        answer: bytes = yield call
    except LostError:
        lent.lose()
        raise
    except (*_WRITTEN_NOTHING, RegionError, QueueFullError, UnavailableError):
        lent.give_back()
        raise
    except BaseException:  # the caller's own deadline, its leaving in the middle, an error nobody knows
        lent.lose()
        raise
    lent.settle()
    return reply.parse(answer, lent)
