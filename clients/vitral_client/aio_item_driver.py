"""EmbedStream for callers that await. `item_driver` has the same for those that block."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any, cast

import grpc
import grpc.aio

from vitral.errors import VitralError
from vitral_client.aio_source import Images, Source
from vitral_client.failure import LostError
from vitral_client.image import Image
from vitral_client.item_driver import short
from vitral_client.item_stream import Flow
from vitral_client.parts import is_at_hand
from vitral_client.reply import Result
from vitral_client.stream import Signal

Call = Any
"""A `grpc.aio.StreamStreamCall`."""


async def stream(
    flow: Flow, images: Images, begin: Callable[[], Call], told: Callable[[grpc.RpcError], VitralError]
) -> AsyncGenerator[tuple[int, Result], None]:
    """Every result with the number of its image; where the caller leaves, the call ends.

    Args:
        flow: what is wanted.
        images: pulled in a task of its own, never further than the flow takes.
        begin: opens a call.
        told: the error of vitral that a call ended with.
    """
    outbox = _Outbox(flow, Source(images))
    pulling, sending, call = asyncio.create_task(outbox.pull()), None, None
    try:
        while True:
            given, in_work, ended = await outbox.wait()
            for one in given:
                yield one
            if ended:
                break
            if not in_work:
                continue
            if call is None:
                call = begin()
                sending = asyncio.create_task(outbox.send(call, outbox.opened()))
            try:
                outbox.answered(await _read(call))
            except grpc.RpcError as error:
                call = None
                await asyncio.sleep(flow.pause(told(error)))
            except LostError as error:
                call = None
                await asyncio.sleep(flow.pause(error))
        if call is not None:
            outbox.half_close()
            with suppress(grpc.RpcError, LostError):
                await call.read()  # or the server would take its caller for one that left
        await pulling  # raises what the images raised
    finally:
        tasks = [task for task in (pulling, sending) if task is not None]
        for task in tasks:
            task.cancel()
        if call is not None:
            call.cancel()
        await asyncio.gather(*tasks, outbox.source.close(), return_exceptions=True)
        flow.leave()


async def _read(call: Call) -> bytes:
    try:
        data = await call.read()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # So grpc says that the server, or the client's own `close`, cancelled the call.
        raise LostError("the stream was cancelled") from None
    if data is grpc.aio.EOF:
        raise short()
    return bytes(data)


class _Outbox:
    """What passes between the task that pulls the images and the one that takes the results."""

    def __init__(self, flow: Flow, source: Source) -> None:
        self.source = source
        self._flow = flow
        self._changed = asyncio.Event()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._pulled = False

    async def pull(self) -> None:
        """Takes images in until there are none."""
        try:
            for number in itertools.count():
                image = await self.source.pull(None)
                if image is Signal.END:
                    return
                message = await self._taken(number, cast("Image", image))
                if message is not None:
                    self._queue.put_nowait(message)
                self._changed.set()
                while self._flow.full:
                    await self._change()
        finally:
            self._pulled = True
            self._changed.set()

    async def wait(self) -> tuple[list[tuple[int, Result]], bool, bool]:
        """What can be given now, whether anything is in work, and whether that was all."""
        while True:
            given = list(self._flow.given())
            in_work = bool(self._flow.unanswered)
            if given or in_work or self._pulled:
                self._changed.set()
                return given, in_work, self._pulled and not in_work
            await self._change()

    def opened(self) -> asyncio.Queue[bytes | None]:
        """The messages of a new call, from the configuration to the last image."""
        self._queue.put_nowait(None)  # to the call before
        self._queue = asyncio.Queue()
        for first in self._flow.opening():
            self._queue.put_nowait(first)
        return self._queue

    async def send(self, call: Call, queue: asyncio.Queue[bytes | None]) -> None:
        """Sends these messages; whoever reads the replies is told of a call that broke.

        The server says that it takes the configuration before anything else is sent: a write to a call that
        is being refused would put grpc's own words in the place of the server's.
        """
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            config = await queue.get()
            await call.write(config)
            await call.initial_metadata()
            await asyncio.sleep(0)
            while not call.done() and (data := await queue.get()) is not None:
                await call.write(data)
            await call.done_writing()

    def half_close(self) -> None:
        """Nothing more is sent."""
        self._queue.put_nowait(None)

    def answered(self, data: bytes) -> None:
        """Takes in a reply."""
        again = self._flow.answered(data)
        if again is not None:
            self._queue.put_nowait(again)

    async def _taken(self, number: int, image: Image) -> bytes | None:
        made = self._flow.made
        if is_at_hand(image):
            return self._flow.take(number, made(number, image))
        return self._flow.take(number, await asyncio.to_thread(made, number, image))

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
