"""Several server processes behind one port: started, kept alive, and led out.

Each worker is the ordinary server in an interpreter of its own, bound to the same port; the kernel gives
every new connection to one of them. This process holds the port and watches. It loads no onnxruntime and
sees no request.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic, perf_counter
from typing import Any

from vitral.errors import UnavailableError
from vitral_engine.runtime import cpu_count
from vitral_server.config import ServerConfig
from vitral_server.ending import asked
from vitral_server.life import Life, begin
from vitral_server.log import announce
from vitral_server.port import held
from vitral_server.share import share

log = logging.getLogger(__name__)

_TRIES = 3
"""Ends in a row before it served, after which a worker is given up, and the server with it."""

_FIRST, _LONGEST = 0.1, 10.0
"""Seconds before a worker is started again: after its first end, doubled with each, and at most."""

_STEADY = 60.0
"""Seconds of life after which a worker's end counts as its first again."""

_SLACK = 10.0
"""Seconds beyond drain delay and grace that a worker has to end."""


async def serve(config: ServerConfig) -> None:
    """Serves with several workers until a signal comes, then lets all of them drain.

    Raises:
        VitralError: the port is taken, a worker refused to start, or one could not be kept alive.
    """
    start = perf_counter()
    stop = asked()
    with held(config.host, config.port) as port:
        workers = Workers(share(config, port=port, cores=cpu_count()), start=start)
        if config.metrics_port >= 0:
            workers.expose(host=config.metrics_host, port=config.metrics_port)
        await workers.run(stop)
    log.info("stopped")


class Workers:
    """The workers of one port, and which of them serve."""

    def __init__(self, config: ServerConfig, *, start: float) -> None:
        self._config, self._start = config, start
        self._lives: dict[int, Life] = {}
        self._serving: dict[int, dict[str, Any]] = {}
        self._announced = False
        self._page = ""

    def expose(self, *, host: str, port: int) -> None:
        """Answers scrapes for all of them.

        Raises:
            UnavailableError: the port is taken, or what is needed is not installed.
        """
        try:
            from vitral_server.exposition import expose
            from vitral_server.gathering import registry
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed: add vitral[server]") from None
        shown = registry(self._pages, workers=self._config.workers)
        self._page = expose(shown, host=host, port=port)

    def _pages(self) -> dict[int, str]:
        """Where each worker that serves has its metrics. From any thread."""
        return {number: word["metrics"] for number, word in dict(self._serving).items()}

    async def run(self, stop: asyncio.Event) -> None:
        """Keeps all of them until `stop` is set or one is given up; none is left behind.

        Raises:
            UnavailableError: the reason why one was given up.
        """
        keepers = [asyncio.create_task(self._keep(1 + i)) for i in range(self._config.workers)]
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopping, *keepers):
            task.cancel()
        ends = await asyncio.gather(*keepers, return_exceptions=True)
        log.info("draining" if self._announced else "stopped while loading")
        within = self._config.drain_delay + self._config.grace + _SLACK
        await asyncio.gather(*(life.leave(within=within) for life in self._lives.values()))
        failures = [end for end in ends if isinstance(end, Exception)]
        if failures and not stop.is_set():
            raise failures[0]

    async def _keep(self, number: int) -> None:
        """One life of this worker after the other."""
        ends = early = 0
        while True:
            born = monotonic()
            life = self._lives[number] = await begin(number, self._config)
            word = await life.word()
            if word.get("event") == "serving":
                self._serves(life, word)
            elif word and not self._announced:
                raise UnavailableError(word["reason"])  # so would the others refuse
            reason = await life.over()
            reason = word.get("reason", reason)
            early = 0 if self._serving.pop(number, None) else early + 1
            if early == _TRIES:
                told = f"worker {number} ended {_TRIES} times in a row before it served"
                raise UnavailableError(f"{told}, the last time: {reason}")
            ends = 1 if monotonic() - born > _STEADY else ends + 1
            delay = min(_FIRST * 2 ** min(ends - 1, 10), _LONGEST)
            fields = {"worker": number, "pid": life.pid, "reason": reason, "again_in_s": delay}
            log.error("worker ended", extra=fields)
            await asyncio.sleep(delay)

    def _serves(self, life: Life, word: dict[str, Any]) -> None:
        self._serving[life.number] = word
        fields = {"worker": life.number, "pid": life.pid, "start_ms": word["start_ms"]}
        log.info("worker serves", extra=fields)
        if self._announced or len(self._serving) < self._config.workers:
            return
        self._announced = True
        every = list(self._serving.values())
        announce(
            "serving",
            address=word["address"],
            device=word["device"],
            provider=word["provider"],
            decode=word["decode"],
            models={name: all(one["models"].get(name) for one in every) for name in word["models"]},
            start_ms=round((perf_counter() - self._start) * 1e3),
            workers=len(every),
            **({"metrics": self._page} if self._page else {}),
        )
