"""What a request needs, decided before any work."""

from __future__ import annotations

from dataclasses import dataclass

from vitral import selection, sizes
from vitral import spec as specs
from vitral.errors import FingerprintMismatchError, InvalidArgumentError, TooLargeError
from vitral.limits import MAX_MESSAGE_BYTES
from vitral.selection import Part
from vitral_engine.engine import Model
from vitral_engine.session import GraphSession
from vitral_server.call import Door, EmbedCall, Wanted
from vitral_server.registry import Registry, Served

_FLOAT = (Door.PREPARED, Door.TENSOR)
"""Doors of rows for a float graph."""


@dataclass(frozen=True)
class Plan:
    """Model, outputs, and the graph behind each door.

    Attributes:
        served, engine: the model.
        wanted: the parts of outputs.
        doors: of each picture.
        sessions: door to the session its pictures go to.
        reply_bytes: what the outputs of one picture take.
        held_bytes: what request and reply take together.
    """

    served: Served
    engine: Model
    wanted: tuple[Part, ...]
    doors: tuple[Door, ...]
    sessions: dict[Door, GraphSession]
    reply_bytes: int
    held_bytes: int


def plan(call: EmbedCall, registry: Registry) -> Plan:
    """The plan of a request.

    Raises:
        VitralError: it cannot be answered.
    """
    served, engine = registry.engine_of(call.model, call.version)
    needed = fit(call, served, engine)
    specs.demand_numbers(engine.spec, [part.name for part in needed.wanted])
    return needed


def fit(call: EmbedCall, served: Served, engine: Model) -> Plan:
    """The plan of a request to this model.

    Raises:
        VitralError: it cannot be answered.
    """
    spec = engine.spec
    if call.fingerprint and call.fingerprint != spec.fingerprint:
        message = f"model {spec.name} has fingerprint {spec.fingerprint}, not {call.fingerprint}"
        raise FingerprintMismatchError(message)
    _check_size(call, engine)
    outputs = call.outputs or tuple(map(Wanted, spec.default_outputs))
    wanted = tuple(selection.part(spec, want.name, want.selection) for want in outputs)
    names = [part.name for part in wanted]
    doors = tuple(picture.door for picture in call.pictures)
    sessions = {door: engine.session_for(names, prepared=door in _FLOAT) for door in set(doors)}
    pairs, images = [(part.name, part.selection) for part in wanted], len(doors)
    each = sum(part.bytes for part in wanted)
    out = images * each
    limit = min(call.max_reply_bytes, MAX_MESSAGE_BYTES - sizes.header_bytes(pairs, images))
    if out > limit:
        told = f"the reply to {images} images takes {out} bytes; the limit is {limit}"
        raise TooLargeError(f"{told}: ask for fewer images at a time")
    return Plan(served, engine, wanted, doors, sessions, each, call.request_bytes + out)


def _check_size(call: EmbedCall, engine: Model) -> None:
    native = engine.spec.architecture.image_size
    if call.size is not None and call.size != (native.height, native.width):
        height, width = call.size
        message = (
            f"size {height} x {width} was asked for, but model {engine.spec.name} has the static size "
            f"{native.height} x {native.width}"
        )
        raise InvalidArgumentError(message)
