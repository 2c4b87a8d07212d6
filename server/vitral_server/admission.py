"""What the server has accepted and not yet answered, bounded by images and bytes, refused at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from vitral.errors import QueueFullError, UnavailableError


class Admission:
    """Counts of the event loop; only its thread may call it."""

    def __init__(self, *, max_images: int, max_bytes: int) -> None:
        self.max_images = max_images
        self.max_bytes = max_bytes
        self.images = 0
        self.bytes = 0
        self.calls = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def arrive(self) -> None:
        """Counts a call whose request is wholly here; `leave` follows when its reply has gone out.

        Raises:
            UnavailableError: the server is draining.
        """
        if self._draining:
            raise UnavailableError("the server is draining and takes no new calls")
        self.calls += 1
        self._idle.clear()

    def leave(self) -> None:
        """The reply of an accepted call has gone out, or its caller is gone."""
        self.calls -= 1
        if self.calls == 0:
            self._idle.set()

    @contextmanager
    def hold(self, images: int, size: int) -> Iterator[None]:
        """Holds room for these images and bytes.

        Raises:
            QueueFullError: there is none; nothing was taken.
        """
        if self.images + images > self.max_images:
            message = (
                f"{self.images} images are in work and {images} more came; the limit is {self.max_images}"
            )
            raise QueueFullError(message)
        if self.bytes + size > self.max_bytes:
            message = f"{self.bytes} bytes are in work and {size} more came; the limit is {self.max_bytes}"
            raise QueueFullError(message)
        self.images += images
        self.bytes += size
        try:
            yield
        finally:
            self.images -= images
            self.bytes -= size

    async def drain(self, grace: float) -> int:
        """Takes no new calls and waits up to `grace` seconds for the accepted ones; gives what is left."""
        self._draining = True
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self.calls
