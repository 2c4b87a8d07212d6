"""EmbedStream for callers that block. `aio_item_driver` has the same, awaited."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Protocol

import grpc

from vitral.errors import ServerError, VitralError
from vitral_client.image import Image
from vitral_client.item_stream import Flow
from vitral_client.reply import Result


class Call(Protocol):
    """A call under way."""

    def __next__(self) -> bytes:
        """The next reply."""
        ...

    def cancel(self) -> bool:
        """Ends it."""
        ...


Open = Callable[[Iterator[bytes]], Call]
"""Opens a call that sends these messages."""


def stream(
    flow: Flow, images: Iterable[Image], begin: Open, told: Callable[[grpc.RpcError], VitralError]
) -> Generator[tuple[int, Result], None, None]:
    """Every result with the number of its image; where the caller leaves, the call ends.

    Args:
        flow: what is wanted.
        images: pulled in a thread of its own, never further than the flow takes.
        begin: opens a call.
        told: the error of vitral that a call ended with.
    """
    outbox = _Outbox(flow)
    threading.Thread(target=outbox.pull, args=(images,), name="embed_stream", daemon=True).start()
    call: Call | None = None
    try:
        while True:
            given, in_work, ended = outbox.wait()
            yield from given
            if ended:
                break
            if not in_work:
                continue
            call = call or begin(outbox.opened())
            try:
                outbox.answered(next(call))
            except (grpc.RpcError, StopIteration) as error:
                call = None
                time.sleep(flow.pause(told(error) if isinstance(error, grpc.RpcError) else short()))
        outbox.half_close()
        if call is not None:
            _finish(call)
        outbox.raise_error()
    finally:
        outbox.close()
        if call is not None:
            call.cancel()


def _finish(call: Call) -> None:
    """Lets the server end the call, or it would take its caller for one that left."""
    with suppress(grpc.RpcError, StopIteration):
        next(call)


def short() -> ServerError:
    """The server ended a stream too early."""
    return ServerError("the server ended the stream before every item was answered")


class _Outbox:
    """What passes between the thread that pulls the images and the one that takes the results."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._changed = threading.Condition()
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._closed = self._pulled = False
        self._error: Exception | None = None

    def pull(self, images: Iterable[Image]) -> None:
        """Takes images in until there are none, or the stream is closed."""
        try:
            for number, image in enumerate(images):
                made = self._flow.made(number, image)
                with self._changed:
                    message = self._flow.take(number, made)
                    if self._closed:
                        return self._flow.leave()
                    if message is not None:
                        self._queue.put(message)
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closed or not self._flow.full)
                    if self._closed:
                        return
        except Exception as error:  # the caller's own: raised where the results are taken
            self._error = error
        finally:
            with self._changed:
                self._pulled = True
                self._changed.notify_all()

    def wait(self) -> tuple[list[tuple[int, Result]], bool, bool]:
        """What can be given now, whether anything is in work, and whether that was all."""
        with self._changed:
            while True:
                given = list(self._flow.given())
                in_work = bool(self._flow.unanswered)
                if given or in_work or self._pulled:
                    self._changed.notify_all()
                    return given, in_work, self._pulled and not in_work
                self._changed.wait()

    def opened(self) -> Iterator[bytes]:
        """The messages of a new call, from the configuration to the last image."""
        with self._changed:
            self._queue.put(None)  # to the call before
            self._queue = SimpleQueue()
            for first in self._flow.opening():
                self._queue.put(first)
            queue = self._queue
        return iter(queue.get, None)

    def answered(self, data: bytes) -> None:
        """Takes in a reply."""
        with self._changed:
            again = self._flow.answered(data)
            if again is not None:
                self._queue.put(again)

    def half_close(self) -> None:
        """Nothing more is sent."""
        self._queue.put(None)

    def close(self) -> None:
        """Nothing more is pulled nor sent."""
        with self._changed:
            self._closed = True
            self._flow.leave()
            self._changed.notify_all()
        self._queue.put(None)

    def raise_error(self) -> None:
        """Raises what the images raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error
