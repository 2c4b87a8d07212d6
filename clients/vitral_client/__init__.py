"""The light client of vitral: images in, patch-embedding tensors out.

    from vitral_client import Client

    with Client("127.0.0.1:50051") as client:
        embedding = client.embed("photograph.jpg")
        embedding.patches  # (196, 768)

It needs grpcio, protobuf and numpy, and nothing else. `AsyncClient` has the same verbs for asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitral.errors import (
        CancelledError,
        DeadlineError,
        FingerprintMismatchError,
        ImageError,
        ImageErrors,
        InvalidArgumentError,
        ModelNotFoundError,
        QueueFullError,
        RegionError,
        ServerError,
        TooLargeError,
        UnavailableError,
        UnsupportedError,
        VitralError,
    )
    from vitral.results import Embedding, Timings
    from vitral_client.aio import AsyncClient
    from vitral_client.client import Client
    from vitral_client.health import Health
    from vitral_client.image import Prepared

__all__ = [
    "AsyncClient",
    "CancelledError",
    "Client",
    "DeadlineError",
    "Embedding",
    "FingerprintMismatchError",
    "Health",
    "ImageError",
    "ImageErrors",
    "InvalidArgumentError",
    "ModelNotFoundError",
    "Prepared",
    "QueueFullError",
    "RegionError",
    "ServerError",
    "Timings",
    "TooLargeError",
    "UnavailableError",
    "UnsupportedError",
    "VitralError",
]

_HOMES = {
    "AsyncClient": "vitral_client.aio",
    "Client": "vitral_client.client",
    "Embedding": "vitral.results",
    "Health": "vitral_client.health",
    "Prepared": "vitral_client.image",
    "Timings": "vitral.results",
}


def __getattr__(name: str) -> object:
    # Late, so that the command is interrupted quietly also while grpc and numpy are being imported.
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "vitral.errors")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
