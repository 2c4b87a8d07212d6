"""grpc.health.v1 from the state of the engines: ready means ready, also later on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from vitral_server.registry import Registry

log = logging.getLogger(__name__)

_PERIOD = 0.2
"""Seconds between two looks at the engines."""


class _Servicer(health_aio.HealthServicer):
    """grpc's own, whose Watch streams end by themselves when the server leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.leaving = asyncio.Event()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802  (the protocol's name)
        """Watch, until the caller or the server leaves."""
        watch = asyncio.create_task(super().Watch(request, context))
        leave = asyncio.create_task(self.leaving.wait())
        try:
            await asyncio.wait((watch, leave), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            leave.cancel()


class Health:
    """Follows the registry: `""` and the service for the server, a model's name for the model."""

    def __init__(self, registry: Registry, *, service: str) -> None:
        self.servicer = _Servicer()
        self._registry = registry
        self._service = service
        self._told: dict[str, bool] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Says what is so now, and goes on looking."""
        await self._tell()
        self._task = asyncio.create_task(self._follow())

    async def leave(self) -> None:
        """NOT_SERVING for everything, for good; watchers are told."""
        if self._task is not None:
            self._task.cancel()
        await self.servicer.enter_graceful_shutdown()

    def end_watches(self) -> None:
        """Lets every open Watch stream end; they would be cut off otherwise."""
        self.servicer.leaving.set()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD)
            await self._tell()

    async def _tell(self) -> None:
        states = {name: self._registry.is_ready(name) for name in self._registry.names}
        states[""] = states[self._service] = self._registry.ready
        for name, ready in states.items():
            if self._told.get(name) == ready:
                continue
            self._told[name] = ready
            state = (
                health_pb2.HealthCheckResponse.SERVING
                if ready
                else health_pb2.HealthCheckResponse.NOT_SERVING
            )
            await self.servicer.set(name, state)
            log.info("health", extra={"service": name, "serving": ready})
