"""The images of an asyncio stream: a plain iterable, or an asynchronous one that is pulled in one task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from typing import Any, TypeAlias

from vitral_client.image import Image
from vitral_client.stream import Signal

Images: TypeAlias = Iterable[Image] | AsyncIterable[Image]


class Source:
    """Gives one image at a time, when it is asked for.

    An asynchronous iterable runs in a task of its own, the same from its first image to its last, as timeouts
    and task groups in it need; it is pulled only on demand. A plain one runs where its caller runs.
    """

    def __init__(self, images: Images) -> None:
        self._plain = None if isinstance(images, AsyncIterable) else iter(images)
        self._next: asyncio.Future[Image | Signal] | None = None
        self._asked = asyncio.Semaphore(0)
        self._task: asyncio.Task[None] | None = None
        if isinstance(images, AsyncIterable):
            self._task = asyncio.create_task(self._pull(aiter(images)))

    async def pull(self, unless: asyncio.Task[Any] | None) -> Image | Signal:
        """The next image, `END` after the last, `ANSWERED` where the task is done first."""
        if self._plain is not None:
            answered = unless is not None and unless.done()
            return Signal.ANSWERED if answered else next(self._plain, Signal.END)
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            self._asked.release()
        waiting: list[asyncio.Future[Any]] = [self._next] if unless is None else [self._next, unless]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if unless is not None and unless.done():
            return Signal.ANSWERED
        found, self._next = self._next, None
        return found.result()

    async def close(self) -> None:
        """Ends the task; a second time does nothing."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._next is not None and self._next.done() and not self._next.cancelled():
            self._next.exception()  # the caller's own, raised while it was being ended: nobody asks for it

    async def _pull(self, source: AsyncIterator[Image]) -> None:
        while True:
            await self._asked.acquire()
            assert self._next is not None
            try:
                self._next.set_result(await anext(source, Signal.END))
            except Exception as error:
                self._next.set_exception(error)
                return
            except asyncio.CancelledError:
                self._next.cancel()
                raise
