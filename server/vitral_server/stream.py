"""Streams of both services: what comes in is answered beside each other, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

from vitral.errors import CancelledError, UnavailableError
from vitral_server.admission import Admission, Permit

IN_FLIGHT = 64
"""Most messages of one stream in work, or answered and not yet taken; the next one is read after that."""

Reply: TypeAlias = Coroutine[Any, Any, bytes]
Accept: TypeAlias = Callable[[bytes, Permit], Awaitable[Reply]]
"""Takes a message in, before the next one is read; what it gives makes the reply. Raising ends the stream."""


class Stream:
    """One stream.

    Args:
        admission: counts what is in work.
        context: of the call.
        ordered: whether replies keep the order of what they answer.
    """

    def __init__(self, admission: Admission, context: Any, *, ordered: bool) -> None:
        self._admission, self._context, self._ordered = admission, context, ordered
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._writing = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    async def serve(self, requests: AsyncIterator[bytes], accept: Accept) -> None:
        """Answers until the caller has sent all, or something fails; what had come before that is answered.

        A write that has begun is never cancelled but by the caller: grpc would not know what it has sent.

        Raises:
            UnavailableError: the server drains.
            VitralError: whatever `accept` or a reply raises.
        """
        async with asyncio.TaskGroup() as group:
            self._reading = group.create_task(self._read(requests, accept, group))
            draining = group.create_task(self._admission.draining.wait())
            await asyncio.wait({self._reading, draining}, return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            self._reading.cancel()
        if self._failure is not None:
            raise self._failure
        if self._admission.draining.is_set():
            raise UnavailableError("the server is draining and takes no new requests")

    async def _read(self, requests: AsyncIterator[bytes], accept: Accept, group: asyncio.TaskGroup) -> None:
        before: asyncio.Task[None] | None = None
        source = aiter(requests)
        while await self._room.acquire():
            data = await anext(source, None)
            if data is None:
                return
            try:
                permit = self._admission.arrive()
            except UnavailableError as error:
                return self._fail(error)
            try:
                reply = await accept(data, permit)
            except BaseException as error:
                self._done(permit)
                if isinstance(error, Exception):
                    return self._fail(error)
                raise
            before = group.create_task(self._answer(reply, before))
            before.add_done_callback(partial(self._answered, reply, permit))

    async def _answer(self, reply: Reply, before: asyncio.Task[None] | None) -> None:
        try:
            message = await reply
            if self._ordered and before is not None:
                await asyncio.wait({before})
            async with self._writing:
                await self._write(message)
        except Exception as error:
            self._fail(error)

    async def _write(self, message: bytes) -> None:
        try:
            await self._context.write(message)
        except Exception:  # grpc has no public class for it
            raise CancelledError("the caller is gone") from None

    def _fail(self, error: Exception) -> None:
        """The first one ends the stream."""
        self._failure = self._failure or error
        if self._reading is not None:
            self._reading.cancel()

    def _answered(self, reply: Reply, permit: Permit, _: object) -> None:
        """Not at the task's own end: one that is cancelled before it begins has none."""
        reply.close()
        self._room.release()
        self._done(permit)

    def _done(self, permit: Permit) -> None:
        permit.end()
        self._admission.leave()
