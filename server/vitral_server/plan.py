"""What a request needs, decided before any work."""

from __future__ import annotations

from dataclasses import dataclass

from vitral import sizes
from vitral import spec as specs
from vitral.errors import FingerprintMismatchError, ImageError, TooLargeError
from vitral.limits import MAX_MESSAGE_BYTES
from vitral.selection import Part
from vitral_engine.engine import Model
from vitral_engine.session import GraphSession
from vitral_server.call import FLOAT, Door, EmbedCall, Wanted
from vitral_server.registry import Registry, Served
from vitral_server.target import Others, Target, targets


@dataclass(frozen=True)
class Plan:
    """Model, outputs, and the graph behind each door.

    Attributes:
        served, engine: the model.
        target: what pictures of the request's own size become.
        others: what the other pictures become.
        doors: of each picture.
        sessions: door to the session its pictures go to.
        bytes: what the outputs take, and the rows of a size that callers choose.
    """

    served: Served
    engine: Model
    target: Target
    others: Others
    doors: tuple[Door, ...]
    sessions: dict[Door, GraphSession]
    bytes: int

    @property
    def wanted(self) -> tuple[Part, ...]:
        """The parts of outputs, of the request's own size."""
        return self.target.wanted

    def of(self, index: int) -> Target | ImageError:
        """What the picture at this index becomes."""
        return self.others.get(index, self.target)


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
    outputs = call.outputs or tuple(map(Wanted, spec.default_outputs))
    target, others = targets(call, engine, outputs)
    names = [want.name for want in outputs]
    doors = tuple(picture.door for picture in call.pictures)
    sessions = {door: engine.session_for(names, prepared=door in FLOAT) for door in set(doors)}
    pairs, images = [(want.name, want.selection) for want in outputs], len(doors)
    own = images - len(others)
    out = own * target.bytes + sum(one.bytes for one in others.values() if isinstance(one, Target))
    limit = min(call.max_reply_bytes, MAX_MESSAGE_BYTES - sizes.header_bytes(pairs, images))
    if out > limit:
        told = f"the reply to {images} images takes {out} bytes; the limit is {limit}"
        raise TooLargeError(f"{told}: ask for fewer images at a time")
    if target.size is not None:
        out += sum(sessions[door].row_bytes(target.size) for door in doors if door not in FLOAT)
    return Plan(served, engine, target, others, doors, sessions, out)
