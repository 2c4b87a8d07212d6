"""One picture to tensors: artifact, image, preprocessing, session. No torch, no gRPC server."""

from vitral_engine.engine import Model, open

__all__ = ["Model", "open"]
