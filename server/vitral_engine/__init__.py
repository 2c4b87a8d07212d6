"""One picture to tensors: artifact, image, preprocessing, session. No torch, no gRPC server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitral_engine.engine import Model, open

__all__ = ["Model", "open"]


def __getattr__(name: str) -> object:
    # Late, so that a missing or doubled onnxruntime is said in one line and not by a failing import.
    if name in __all__:
        from vitral_engine.runtime import require

        require()
        from vitral_engine import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
