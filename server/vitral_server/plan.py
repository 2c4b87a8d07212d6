"""What a request needs, decided before any work."""

from __future__ import annotations

from dataclasses import dataclass

from vitral import sizes
from vitral import spec as specs
from vitral.errors import FingerprintMismatchError, InvalidArgumentError, TooLargeError
from vitral.limits import MAX_MESSAGE_BYTES
from vitral.v1 import tensor_pb2
from vitral_engine.engine import Model
from vitral_engine.session import GraphSession
from vitral_server.call import Door, EmbedCall, Wanted
from vitral_server.registry import Registry, Served


@dataclass(frozen=True)
class Plan:
    """Model, outputs, and the graph behind each door.

    Attributes:
        served, engine: the model.
        wanted: the outputs.
        doors: of each picture.
        sessions: door to the session its pictures go to.
        held_bytes: what request and reply take together.
    """

    served: Served
    engine: Model
    wanted: tuple[Wanted, ...]
    doors: tuple[Door, ...]
    sessions: dict[Door, GraphSession]
    held_bytes: int


def plan(call: EmbedCall, registry: Registry) -> Plan:
    """The plan of a request.

    Raises:
        VitralError: it cannot be answered.
    """
    served, engine = registry.engine_of(call.model, call.version)
    spec = engine.spec
    if call.fingerprint and call.fingerprint != spec.fingerprint:
        message = f"model {spec.name} has fingerprint {spec.fingerprint}, not {call.fingerprint}"
        raise FingerprintMismatchError(message)
    _check_size(call, engine)
    default = tensor_pb2.DATA_TYPE_FLOAT32
    wanted = call.outputs or tuple(Wanted(name, default) for name in spec.default_outputs)
    names = [specs.output(spec, want.name).name for want in wanted]
    doors = tuple(picture.door for picture in call.pictures)
    sessions = {door: engine.session_for(names, prepared=door is Door.PREPARED) for door in set(doors)}
    pairs, images = [(want.name, want.dtype) for want in wanted], len(doors)
    out = sizes.payload_bytes(spec, pairs, images)
    limit = min(call.max_reply_bytes, MAX_MESSAGE_BYTES - sizes.header_bytes(pairs, images))
    if out > limit:
        told = f"the reply to {images} images takes {out} bytes; the limit is {limit}"
        raise TooLargeError(f"{told}: ask for fewer images at a time")
    return Plan(served, engine, wanted, doors, sessions, held_bytes=call.request_bytes + out)


def _check_size(call: EmbedCall, engine: Model) -> None:
    native = engine.spec.architecture.image_size
    if call.size is not None and call.size != (native.height, native.width):
        height, width = call.size
        message = (
            f"size {height} x {width} was asked for, but model {engine.spec.name} has the static size "
            f"{native.height} x {native.width}"
        )
        raise InvalidArgumentError(message)
