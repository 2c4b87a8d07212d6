"""One request through the house: plan, admission, decode, preprocess, batch, reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic

from vitral import sizes
from vitral import spec as specs
from vitral.errors import (
    DeadlineError,
    FingerprintMismatchError,
    ImageError,
    InvalidArgumentError,
    TooLargeError,
)
from vitral.limits import MAX_MESSAGE_BYTES
from vitral.v1 import tensor_pb2
from vitral_engine.engine import Model
from vitral_engine.intake import Row
from vitral_engine.session import GraphSession
from vitral_server.admission import Permit
from vitral_server.batcher import Ticket
from vitral_server.call import Door, EmbedCall, Picture, Wanted
from vitral_server.registry import Registry, Served
from vitral_server.reply import Assembly, Frame


@dataclass(frozen=True)
class Plan:
    """What a request needs, decided before any work: model, outputs, and the graph behind each door."""

    served: Served
    engine: Model
    wanted: tuple[Wanted, ...]
    sessions: dict[Door, GraphSession]
    held_bytes: int


class Embedder:
    """Answers Embed calls. Lives on the event loop; decoding and runs happen in threads."""

    def __init__(self, registry: Registry, pool: ThreadPoolExecutor) -> None:
        self._registry = registry
        self._pool = pool

    async def embed(self, call: EmbedCall, *, permit: Permit, seconds: float) -> tuple[Served, Frame]:
        """The framed reply, within `seconds`.

        Raises:
            VitralError: the request as a whole cannot be answered.
        """
        deadline = monotonic() + seconds
        plan = self._plan(call)
        permit.hold(len(call.pictures), plan.held_bytes)
        spec, version = plan.engine.spec, plan.served.version
        images, decode = len(call.pictures), plan.engine.decode
        assembly = Assembly(spec, version, plan.wanted, images=images, deadline=deadline, decode=decode)
        with _leaving(assembly):
            try:
                async with asyncio.timeout_at(deadline):  # the loop's clock is monotonic() too
                    await self._feed(call, plan, assembly, permit)
                    return plan.served, await assembly.future
            except TimeoutError:
                message = f"the deadline of {seconds * 1e3:.0f} ms passed before the answer was there"
                raise DeadlineError(message) from None

    def _plan(self, call: EmbedCall) -> Plan:
        served, engine = self._registry.engine_of(call.model, call.version)
        spec = engine.spec
        if call.fingerprint and call.fingerprint != spec.fingerprint:
            message = f"model {spec.name} has fingerprint {spec.fingerprint}, not {call.fingerprint}"
            raise FingerprintMismatchError(message)
        _check_size(call, engine)
        default = tensor_pb2.DATA_TYPE_FLOAT32
        wanted = call.outputs or tuple(Wanted(name, default) for name in spec.default_outputs)
        names = [specs.output(spec, want.name).name for want in wanted]
        doors = {picture.door for picture in call.pictures}
        sessions = {door: engine.session_for(names, prepared=door is Door.PREPARED) for door in doors}
        pairs, images = [(want.name, want.dtype) for want in wanted], len(call.pictures)
        out = sizes.payload_bytes(spec, pairs, images)
        limit = min(call.max_reply_bytes, MAX_MESSAGE_BYTES - sizes.header_bytes(pairs, images))
        if out > limit:
            told = f"the reply to {images} images takes {out} bytes; the limit is {limit}"
            raise TooLargeError(f"{told}: ask for fewer images at a time")
        return Plan(served, engine, wanted, sessions, held_bytes=call.request_bytes + out)

    async def _feed(self, call: EmbedCall, plan: Plan, assembly: Assembly, permit: Permit) -> None:
        work = [self._prepare(picture, plan, assembly, permit) for picture in call.pictures]
        rows = await asyncio.gather(*work)
        tickets: dict[Door, list[Ticket]] = {}
        for index, (picture, row) in enumerate(zip(call.pictures, rows, strict=True)):
            if isinstance(row, ImageError):
                assembly.refuse(index, row)
                continue
            assembly.stages.decode += row.decode_ms
            assembly.stages.preprocess += row.preprocess_ms
            tickets.setdefault(picture.door, []).append(Ticket(assembly, index, row.array, monotonic()))
        for door, queued in tickets.items():
            plan.served.batcher_of(plan.sessions[door]).submit(queued)

    def _prepare(
        self, picture: Picture, plan: Plan, assembly: Assembly, permit: Permit
    ) -> asyncio.Future[Row | ImageError]:
        loop = asyncio.get_running_loop()
        # The pool keeps what waits in it until its turn, cancelled or not: a picture must not be part of it.
        cell = [picture]
        work = self._pool.submit(_row, cell, plan, assembly)
        permit.share()  # a caller may leave; the thread that decodes for it goes on

        def done(_: object) -> None:
            cell.clear()
            _post(loop, permit.end)

        work.add_done_callback(done)
        return asyncio.wrap_future(work)


def _row(cell: list[Picture], plan: Plan, assembly: Assembly) -> Row | ImageError:
    """Decodes and preprocesses one picture, in a pool thread; nothing for callers that are gone."""
    if assembly.gone or monotonic() > assembly.deadline:
        raise DeadlineError("nobody waits for this image any more")
    picture = cell[0]
    content, graph = picture.content, plan.sessions[picture.door].graph
    try:
        if isinstance(content, ImageError):
            return content
        if isinstance(content, bytes):
            return plan.engine.intake.encoded(content, graph)
        if picture.door is Door.PIXELS:
            return plan.engine.intake.pixels(content, graph)
        return plan.engine.intake.prepared(content)
    except ImageError as error:
        failure = error
    # Its traceback holds this frame, and so the whole request, in a cycle.
    failure.__traceback__ = failure.__cause__ = failure.__context__ = None
    return failure


def _post(loop: asyncio.AbstractEventLoop, done: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the server has stopped
        loop.call_soon_threadsafe(done)


def _check_size(call: EmbedCall, engine: Model) -> None:
    native = engine.spec.architecture.image_size
    if call.size is not None and call.size != (native.height, native.width):
        height, width = call.size
        message = (
            f"size {height} x {width} was asked for, but model {engine.spec.name} has the static size "
            f"{native.height} x {native.width}"
        )
        raise InvalidArgumentError(message)


@contextmanager
def _leaving(assembly: Assembly) -> Iterator[None]:
    """Marks the assembly when its handler ends, so that rows still queued cost nothing."""
    try:
        yield
    finally:
        assembly.left = True
