"""What the server has accepted and not yet answered, bounded by images and bytes, refused at once."""

from __future__ import annotations

import asyncio
import threading

from vitral.errors import QueueFullError, TooLargeError, UnavailableError


class Admission:
    """Counts of the event loop; only its thread may call it, but for the end of a permit."""

    def __init__(self, *, max_images: int, max_bytes: int) -> None:
        self.max_images = max_images
        self.max_bytes = max_bytes
        self.images = 0
        self.bytes = 0
        self.calls = 0
        self.lock = threading.Lock()
        self.draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def arrive(self) -> Permit:
        """Counts a call whose request is wholly here; its permit ends when its reply has gone out.

        Raises:
            UnavailableError: the server is draining.
        """
        if self.draining.is_set():
            raise UnavailableError("the server is draining and takes no new calls")
        self.calls += 1
        self._idle.clear()
        return Permit(self)

    def leave(self) -> None:
        """The reply of an accepted call has gone out, or its caller is gone."""
        self.calls -= 1
        if self.calls == 0:
            self._idle.set()

    async def drain(self, grace: float) -> int:
        """Takes no new calls and waits up to `grace` seconds for the accepted ones; gives what is left."""
        self.draining.set()
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self.calls


class Permit:
    """The room one call takes, until its reply has gone out and no thread works for it any more."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._images = 0
        self._bytes = 0
        self._users = 1

    def hold(self, images: int, size: int) -> None:
        """Takes room for these images and bytes.

        Raises:
            TooLargeError: they would not fit an idle server either.
            QueueFullError: there is no room now; nothing was taken.
        """
        of = self._admission
        if images > of.max_images or size > of.max_bytes:
            limits = f"the limits are {of.max_images} and {of.max_bytes}"
            raise TooLargeError(f"{images} images and {size} bytes in one call; {limits}")
        with of.lock:
            if of.images + images > of.max_images:
                told = f"{of.images} images are in work and {images} more came"
                raise QueueFullError(f"{told}; the limit is {of.max_images}")
            if of.bytes + size > of.max_bytes:
                told = f"{of.bytes} bytes are in work and {size} more came"
                raise QueueFullError(f"{told}; the limit is {of.max_bytes}")
            self._images, self._bytes = images, size
            of.images += images
            of.bytes += size

    @property
    def alone(self) -> bool:
        """Whether no image of any other call is in work."""
        return self._admission.images == self._images

    def share(self) -> None:
        """One more thread works for this call; `end` follows when it is done."""
        with self._admission.lock:
            self._users += 1

    def end(self) -> None:
        """The call, or one of its threads, is done; the last one gives the room back. From any thread."""
        of = self._admission
        with of.lock:
            self._users -= 1
            if self._users == 0:
                of.images -= self._images
                of.bytes -= self._bytes
