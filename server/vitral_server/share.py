"""What each of several workers gets of the whole: threads, room in the queue, the port."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from vitral.limits import MAX_MESSAGE_BYTES
from vitral_server.config import ServerConfig

_LARGEST_MIB = 2 * MAX_MESSAGE_BYTES >> 20
"""The largest request with the largest reply."""


def share(config: ServerConfig, *, port: int, cores: int) -> ServerConfig:
    """One worker's part, the same for all.

    Threads that were named hold for each worker, those that were not are a share of the cores. The queue's
    limits are divided, but never below one request of the largest size: what one process takes, several do.
    Metrics are for the supervisor, which asks for them on a free port of this machine.
    """
    whole, threads = config, max(1, cores // config.workers)
    return replace(
        whole,
        port=port,
        threads=whole.threads or threads,
        decode_threads=whole.decode_threads or threads,
        max_queue_images=max(
            whole.max_queue_images // whole.workers, min(whole.max_queue_images, whole.max_items)
        ),
        max_queue_mib=max(whole.max_queue_mib // whole.workers, min(whole.max_queue_mib, _LARGEST_MIB)),
        metrics_port=min(0, whole.metrics_port),
        metrics_host="127.0.0.1",
    )


def packed(config: ServerConfig) -> bytes:
    """The configuration as one line, for another process."""
    return json.dumps(asdict(config), default=str).encode() + b"\n"


def unpacked(line: bytes) -> ServerConfig:
    """What `packed` gave."""
    data = json.loads(line)
    return ServerConfig(
        **{**data, "repo": Path(data["repo"]), "models": tuple(data["models"]), "trust": tuple(data["trust"])}
    )
