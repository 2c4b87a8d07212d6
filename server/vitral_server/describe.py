"""What the server knows of its models and itself, as messages."""

from __future__ import annotations

import platform
from importlib import metadata

import onnxruntime

from vitral import __version__
from vitral import decode as decodes
from vitral.limits import MAX_MESSAGE_BYTES, MAX_REPLY_BYTES
from vitral.v1 import embedding_service_pb2 as pb
from vitral_engine.image import FORMATS
from vitral_server.config import ServerConfig
from vitral_server.registry import Served

_LIBRARIES = ("grpcio", "protobuf", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu")


def model(served: Served) -> pb.ServedModel:
    """One model with its state."""
    fault = served.fault
    message = pb.ServedModel(
        name=served.name,
        version=served.version,
        reason=fault,
        max_batch_size=served.max_batch,
        load_ms=served.load_ms,
    )
    engine = served.engine
    if engine is None:
        message.state = pb.MODEL_STATE_FAILED
        return message
    message.state = pb.MODEL_STATE_BROKEN if fault else pb.MODEL_STATE_READY
    message.spec.CopyFrom(engine.spec)
    message.provider, message.device = engine.placement.provider, engine.placement.device
    message.decode = decodes.to_enum(engine.decode)
    replayed = engine.replayed
    message.replay.CopyFrom(
        pb.Replay(
            agreed=True,  # a model that disagreed did not open
            rel_l2=replayed.rel_l2,
            rel_l2_budget=replayed.rel_l2_budget,
            pixels_equal=replayed.pixels_equal,
            pixels_note=replayed.pixels_note,
        )
    )
    return message


def server(config: ServerConfig) -> pb.GetServerInfoResponse:
    """Version, limits, libraries and providers."""
    return pb.GetServerInfoResponse(
        version=__version__,
        limits=pb.ServerLimits(
            max_message_bytes=MAX_MESSAGE_BYTES,
            max_items=config.max_items,
            max_queue_images=config.max_queue_images,
            max_queue_bytes=config.max_queue_mib << 20,
            max_image_pixels=config.max_image_pixels,
            default_timeout_ms=int(config.timeout * 1e3),
            max_reply_bytes=MAX_REPLY_BYTES,
            run_timeout_ms=int(config.run_timeout * 1e3),
        ),
        libraries=libraries(),
        providers=onnxruntime.get_available_providers(),
        device=config.device,
        formats=FORMATS,
        workers=config.workers,
    )


def libraries() -> dict[str, str]:
    """Name to version of the libraries that shape an answer."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
