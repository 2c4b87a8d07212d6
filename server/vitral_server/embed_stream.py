"""EmbedStream: items of one stream, each planned, fed and framed as a request of one picture."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from time import monotonic

from vitral import output_request
from vitral.dynamic import Size
from vitral.errors import ImageError, QueueFullError, UnavailableError, VitralError
from vitral.results import Timings
from vitral.spec import is_unproven
from vitral.v1 import embedding_service_pb2 as pb
from vitral_server.admission import Permit
from vitral_server.call import Door, EmbedCall
from vitral_server.embed import Embedder
from vitral_server.log import RequestLine, explained
from vitral_server.place import Place
from vitral_server.plan import Plan, plan
from vitral_server.registry import Registry
from vitral_server.reply import Assembly, item_error
from vitral_server.request import Memory, parse_item
from vitral_server.stream import Reply

_RETRY = 0.005
"""Seconds between tries to get room in a full queue."""

_HEADS = 64
"""Sizes of which a stream remembers what it says alike."""


@dataclass
class _Said:
    """What good replies of a stream say alike: all of them, and by size those with payloads."""

    head: bytes = b""
    results: dict[Size | None, bytes] = field(default_factory=dict)


class _ItemAssembly(Assembly):
    """The reply to one item."""

    def of(self, number: int, said: _Said, size: Size | None) -> _ItemAssembly:
        """Of this number and size, in a stream that says this."""
        self._number, self._said, self._size = number, said, size
        return self

    def _header(self, timings: Timings) -> bytes:
        own = pb.EmbedStreamResponse(id=self._number, timings=pb.Timings(**vars(timings)))
        (slot,), said = self._slots, self._said
        if isinstance(slot, ImageError):
            self._tell(slot, 0, own.result, 0)
            return own.SerializeToString()
        if not said.head:
            alike = pb.EmbedStreamResponse(
                model=self._spec.name,
                version=self._version,
                fingerprint=self._spec.fingerprint,
                decode=self._decode,
                unproven=is_unproven(self._spec),
            )
            alike.outputs.extend(output_request.write(part.name, part.selection) for part in self._wanted)
            said.head = alike.SerializeToString()
        result = b"" if self._writes else said.results.get(self._size, b"")
        if not result:
            told = pb.EmbedStreamResponse()
            self._tell(slot, 0, told.result, 0)
            result = told.SerializeToString()
            if not self._writes and len(said.results) < _HEADS:  # else each has a range of its own
                said.results[self._size] = result
        # Protobuf merges them.
        return said.head + result + own.SerializeToString()


@dataclass
class Items:
    """The items of one stream.

    Attributes:
        template: the stream's configuration, as a call without pictures.
        memory: shared memory that items may name.
        noting: begins to note one item.
        seconds: left of the caller's deadline, or granted to each item where there is none.
        accepted, failed: items, for the log.
    """

    embedder: Embedder
    registry: Registry
    template: EmbedCall
    memory: Memory
    seconds: Callable[[], float]
    noting: Callable[[], AbstractContextManager[RequestLine]]
    accepted: int = 0
    failed: int = 0
    _plans: dict[Door, Plan] = field(default_factory=dict)
    _said: _Said = field(default_factory=_Said)

    @property
    def unproven(self) -> bool:
        """Whether the model, as it is served now, was never proven."""
        return self.registry.find(self.template.model, self.template.version).unproven

    def __post_init__(self) -> None:
        """Refuses what no item could cure.

        Raises:
            VitralError: there is no such model, output, size or fingerprint.
        """
        plan(self.template, self.registry)

    async def accept(self, data: bytes, permit: Permit) -> Reply:
        """Takes an item in, waiting for room; what it gives makes the reply.

        Raises:
            InvalidArgumentError: it is no item.
            UnavailableError: the model does not serve any more.
        """
        item = parse_item(data, memory=self.memory)
        self.accepted += 1
        seconds = self.seconds()
        call = replace(self.template, pictures=(item.picture,), request_bytes=item.bytes)
        needed: Plan | VitralError
        place = None
        try:
            needed = self._plan(call)
            if item.reply is not None:
                place = Place(item.reply, needed.target.spec, needed.wanted, images=1, others=needed.others)
            await _hold(permit, needed.bytes + item.bytes, seconds)
        except UnavailableError:
            raise
        except VitralError as error:
            needed = error
        return self._answer(item.number, call, needed, place, permit, seconds)

    def _plan(self, call: EmbedCall) -> Plan:
        door = call.pictures[0].door
        if door in self._plans:
            return self._plans[door]
        made = plan(call, self.registry)
        if door is not Door.PREPARED or made.target.size is None:  # else each says its own size
            self._plans[door] = made
        return made

    async def _answer(
        self,
        number: int,
        call: EmbedCall,
        needed: Plan | VitralError,
        place: Place | None,
        permit: Permit,
        seconds: float,
    ) -> bytes:
        try:
            with self.noting() as line:
                if isinstance(needed, VitralError):
                    raise needed
                line.found(needed.served, images=1, outputs=[part.name for part in needed.wanted])
                assembly = _ItemAssembly(
                    needed.target.spec,
                    needed.served.version,
                    needed.wanted,
                    images=1,
                    deadline=monotonic() + seconds,
                    decode=needed.engine.decode,
                    place=place,
                    trace=line.trace,
                    others=needed.others,
                ).of(number, self._said, needed.target.size)
                frame = await self.embedder.answer(call, needed, assembly, permit=permit, seconds=seconds)
                line.answered(needed.served, call, frame)
        except UnavailableError:
            raise
        except Exception as error:
            self.failed += 1
            reply, failure = pb.EmbedStreamResponse(id=number), explained(error)
            reply.result.error.CopyFrom(item_error(failure, failure.reason))
            return reply.SerializeToString()
        self.failed += frame.failed
        return frame.message


async def _hold(permit: Permit, size: int, seconds: float) -> None:
    """Room for one image; a stream waits for it, since nothing more of it is read meanwhile."""
    until = monotonic() + seconds
    while True:
        try:
            permit.hold(1, size)
        except QueueFullError:
            if monotonic() > until:
                raise
            await asyncio.sleep(_RETRY)
        else:
            return
