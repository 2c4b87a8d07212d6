"""One life of a worker process: its start, what it says of it, and how it ended."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import Any

from vitral_server.config import ServerConfig
from vitral_server.share import packed

log = logging.getLogger(__name__)

_WORDS = ("serving", "failed")
_LINE = 1 << 24
"""Most bytes of a line from a worker: it names every model."""


class Life:
    """A worker process that was started."""

    def __init__(self, number: int, process: Process) -> None:
        self.number, self.pid = number, process.pid
        self._process = process

    async def word(self) -> dict[str, Any]:
        """`serving` with what it serves, or `failed` with its reason; empty when it ended without a word."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            with suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and said.get("event") in _WORDS:
                    return said
        return {}

    async def over(self) -> str:
        """Waits for its end; how it ended, in words."""
        assert self._process.stdout is not None
        while await self._process.stdout.read(1 << 16):  # a full pipe would hold it up
            pass
        code = await self._process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def leave(self, *, within: float) -> None:
        """Asks it to drain and waits; a worker that is still there then is killed."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self.over(), within)
        except TimeoutError:
            log.warning("worker did not leave", extra={"worker": self.number, "pid": self.pid})
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def begin(number: int, config: ServerConfig) -> Life:
    """Starts a worker in a fresh interpreter: what grpc has running in a process would not survive a fork."""
    command = (sys.executable, "-P", "-m", "vitral_server.worker", str(number))
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=_LINE)
    assert process.stdin is not None
    with suppress(ConnectionError):  # it has ended already, and says so by its exit code
        process.stdin.write(packed(config))
        await process.stdin.drain()
    return Life(number, process)  # its standard input stays open: it ends with us
