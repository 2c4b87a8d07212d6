"""`vitral-server`: bind, load, answer, drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vitral.limits import MAX_MESSAGE_BYTES
from vitral_engine.device import Placement, place
from vitral_engine.runtime import cpu_count
from vitral_server.admission import Admission
from vitral_server.config import ServerConfig
from vitral_server.embed import Embedder
from vitral_server.ending import asked
from vitral_server.health import Health
from vitral_server.kserve import service as kserve
from vitral_server.log import announce
from vitral_server.port import bracketed, refusal
from vitral_server.regions import Regions
from vitral_server.registry import Registry, load
from vitral_server.service import NAME, EmbeddingService
from vitral_server.telemetry import Telemetry, telemetry
from vitral_server.unix import bound

log = logging.getLogger(__name__)

_STOP = 5.0
"""Seconds that open connections have to close at the end."""

_FLUSH = 3.0
"""Seconds that a collector has to take the last traces."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Clients that ping would otherwise be cut off with too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A peer that is gone without a word holds its unread reply until then.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


async def serve(config: ServerConfig) -> None:
    """Serves until a signal comes, then drains.

    Raises:
        VitralError: the port is taken, the device does not work, or a named model cannot be opened.
    """
    start = perf_counter()
    # Two servers on one port must not share it unnoticed; the workers of one server do, knowingly.
    server = aio.server(options=(*_OPTIONS, ("grpc.so_reuseport", int(config.workers > 1))))
    port = 0 if config.workers > 1 else _bind(server, config)
    with bound(server, config.unix_socket) as local:
        await _serve(server, config, port=port, local=local, start=start)


async def _serve(server: aio.Server, config: ServerConfig, *, port: int, local: str, start: float) -> None:
    stop = asked()
    noted = telemetry(config)
    loading = asyncio.get_running_loop().run_in_executor(_threads(1, "load"), _load, config, noted)
    if not await _before(stop, loading):
        log.info("stopped while loading")
        return
    placement, registry = loading.result()
    admission = Admission(max_images=config.max_queue_images, max_bytes=config.max_queue_mib << 20)
    health = Health(registry, services=(NAME, kserve.NAME))
    pool = _threads(config.decode_threads or cpu_count(), "decode")
    embedder, regions = Embedder(registry, pool), Regions()
    service = EmbeddingService(registry, embedder, admission, config, regions, noted)
    inference = kserve.InferenceService(registry, embedder, pool, admission, config, health, noted)
    noted.follow(registry, admission, config)
    _register(server, (service.handlers(), inference.handlers()), health)
    health.start()
    # A worker's port is held for it: bound this late, no connection has to wait for the load.
    port = port or _bind(server, config)
    await server.start()
    address = f"{bracketed(config.host)}:{port}"
    _announce(config, placement, registry, (address, local), start, noted)
    await stop.wait()
    await _leave(server, admission, health, config)
    pool.shutdown(wait=False, cancel_futures=True)
    registry.close()
    await _flush(noted)
    log.info("stopped")


async def _leave(server: aio.Server, admission: Admission, health: Health, config: ServerConfig) -> None:
    """Health first, then new calls, then the accepted ones; nothing accepted is lost within the grace."""
    log.info("draining", extra={"calls": admission.calls})
    health.leave()
    await asyncio.sleep(config.drain_delay)
    if left := await admission.drain(config.grace):
        log.warning("grace is over", extra={"calls": left, "grace": config.grace})
    health.servicer.end()
    await asyncio.sleep(0.05)  # one turn of the loop would do; a loaded one may need several
    try:
        await asyncio.wait_for(server.stop(None), _STOP)
    except TimeoutError:
        log.warning("connections did not close", extra={"seconds": _STOP})


async def _flush(noted: Telemetry) -> None:
    """Lets the last spans go out, where somebody takes them."""
    closing = asyncio.get_running_loop().run_in_executor(_threads(1, "telemetry"), noted.close)
    try:
        await asyncio.wait_for(asyncio.shield(closing), _FLUSH)
    except TimeoutError:
        log.warning("the last traces were not taken", extra={"seconds": _FLUSH})


def _load(config: ServerConfig, noted: Telemetry) -> tuple[Placement, Registry]:
    placement = place(config.device, cache=Path(config.tensorrt_cache) if config.tensorrt_cache else None)
    return placement, load(config, placement, noted)


async def _before(stop: asyncio.Event, work: asyncio.Future[Any]) -> bool:
    """Waits for the work; false when `stop` came first."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, work}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    return work.done()


def _threads(count: int, name: str) -> ThreadPoolExecutor:
    # Never used as a context manager: that would wait, on the event loop, for a thread that may be stuck.
    return ThreadPoolExecutor(count, thread_name_prefix=name)


def _register(server: aio.Server, handlers: Sequence[grpc.GenericRpcHandler], health: Health) -> None:
    server.add_generic_rpc_handlers(handlers)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    own = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection((NAME, kserve.NAME, own, reflection.SERVICE_NAME), server)


def _bind(server: aio.Server, config: ServerConfig) -> int:
    try:
        return server.add_insecure_port(f"{bracketed(config.host)}:{config.port}")
    except RuntimeError:
        raise refusal(config.host, config.port) from None


def _announce(
    config: ServerConfig,
    placement: Placement,
    registry: Registry,
    addresses: tuple[str, str],
    start: float,
    noted: Telemetry,
) -> None:
    address, local = addresses
    announce(
        "serving",
        address=address,
        **({"unix_socket": local} if local else {}),
        device=placement.device,
        provider=placement.provider,
        decode=config.decode,
        models={name: registry.is_ready(name) for name in registry.names},
        start_ms=round((perf_counter() - start) * 1e3),
        **({"metrics": noted.page} if noted.page else {}),
    )
