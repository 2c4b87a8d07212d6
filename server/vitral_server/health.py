"""grpc.health.v1 from the state of the engines: ready means ready, also later on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vitral_server.registry import Registry

log = logging.getLogger(__name__)

UNPROVEN = (("vitral-proof", "unproven"),)
"""Trailing metadata of what unproven models say of themselves, and of their answers."""

_PERIOD = 0.2
"""Seconds between two looks at the engines."""

_Reply = health_pb2.HealthCheckResponse


class Servicer(health_pb2_grpc.HealthServicer):
    """Check and Watch over a table of states.

    grpc's own servicer writes to watchers under the lock that changes need: one that does not read would keep
    every other from being told, and the server from ending.
    """

    def __init__(self) -> None:
        self._states: dict[str, Any] = {}  # service to ServingStatus
        self._unproven: set[str] = set()
        self._changed = asyncio.Event()
        self._ended = False

    def set(self, service: str, *, serving: bool, unproven: bool = False) -> None:
        """Notes a state; watchers are told as soon as they read."""
        (self._unproven.add if unproven else self._unproven.discard)(service)
        self._states[service] = _Reply.SERVING if serving else _Reply.NOT_SERVING
        self._wake()

    def set_all_not_serving(self) -> None:
        """Nothing serves any more."""
        for service in list(self._states):
            self.set(service, serving=False)

    def end(self) -> None:
        """Lets every open Watch stream end; they would be cut off otherwise."""
        self._ended = True
        self._wake()

    async def Check(self, request: Any, context: Any) -> _Reply:  # noqa: N802
        """The state of one service."""
        if request.service not in self._states:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details(f"no service {request.service[:100]!r}")
            return _Reply()
        if request.service in self._unproven:
            context.set_trailing_metadata(UNPROVEN)
        return _Reply(status=self._states[request.service])

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        """The state now, and again whenever it changes."""
        told = None
        while not self._ended:
            changed = self._changed
            state = self._states.get(request.service, _Reply.SERVICE_UNKNOWN)
            if state == told:
                await changed.wait()
                continue
            await context.write(_Reply(status=state))
            told = state

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Health:
    """Follows the registry: `""` and the services for the server, a model's name for the model.

    Attributes:
        left: whether nothing serves any more, for good.
    """

    def __init__(self, registry: Registry, *, services: Sequence[str]) -> None:
        self.servicer = Servicer()
        self.left = False
        self._registry = registry
        self._services = tuple(services)
        self._told: dict[str, bool] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Says what is so now, and goes on looking."""
        self._tell()
        self._task = asyncio.create_task(self._follow())

    def leave(self) -> None:
        """NOT_SERVING for everything, for good; watchers are told."""
        self.left = True
        if self._task is not None:
            self._task.cancel()
        self.servicer.set_all_not_serving()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD)
            self._tell()

    def _tell(self) -> None:
        states = {name: self._registry.is_ready(name) for name in self._registry.names}
        states |= dict.fromkeys(("", *self._services), self._registry.ready)
        for name, ready in states.items():
            if self._told.get(name) == ready:
                continue
            self._told[name] = ready
            model = "" if name in self._services else name
            self.servicer.set(name, serving=ready, unproven=self._registry.is_unproven(model))
            log.info("health", extra={"service": name, "serving": ready})
