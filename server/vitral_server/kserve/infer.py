"""One inference: from the bytes of its request to those of its reply, by the way of Embed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter
from typing import TypeVar

import numpy as np

from vitral.errors import InvalidArgumentError, TooLargeError, VitralError
from vitral.limits import MAX_MESSAGE_BYTES, MAX_REPLY_BYTES
from vitral.tensors import numpy_dtype
from vitral_server.admission import Permit
from vitral_server.call import Door, EmbedCall, Picture, Wanted
from vitral_server.config import ServerConfig
from vitral_server.embed import Embedder
from vitral_server.kserve import checks, contents
from vitral_server.kserve.catalogue import Catalogue, Entry, Face
from vitral_server.kserve.contents import Source
from vitral_server.kserve.region import Slice
from vitral_server.kserve.regions import Regions
from vitral_server.kserve.reply import Form, InferAssembly
from vitral_server.kserve.request import Request, timeout_of
from vitral_server.kserve.statistics import Statistics
from vitral_server.kserve.status import translated
from vitral_server.log import RequestLine
from vitral_server.plan import fit

_Made = TypeVar("_Made")

_AT_ONCE = 1 << 20
"""Bytes that the event loop itself may copy or convert: more would hold up everybody."""


@dataclass(frozen=True)
class Caller:
    """What a call says of itself beside its message.

    Attributes:
        peer: who calls, as gRPC names it.
        seconds: what is left of its deadline; None where it has none.
        streamed: whether it is one of a stream.
    """

    peer: str
    seconds: float | None
    streamed: bool = False


class Inference:
    """Answers requests. Lives on the event loop."""

    def __init__(
        self,
        catalogue: Catalogue,
        embedder: Embedder,
        pool: ThreadPoolExecutor,
        regions: Regions,
        statistics: Statistics,
        config: ServerConfig,
    ) -> None:
        self._catalogue, self._embedder, self._pool = catalogue, embedder, pool
        self._regions, self._statistics, self._config = regions, statistics, config

    async def answer(self, request: Request, *, permit: Permit, caller: Caller, line: RequestLine) -> bytes:
        """The framed reply.

        Raises:
            VitralError: there is none.
        """
        message, find = request.message, partial(self._regions.find, peer=caller.peer)
        entry, face = self._catalogue.find(message.model_name, message.model_version)
        timeout = timeout_of(request)
        checks.once_each(request)
        sources = contents.sources(request, entry.name, find=find)
        places = checks.places(request, find=find)
        outputs = checks.outputs(request, entry, face)
        shape = checks.the_input(request, entry, face, most=face.max_batch_size or self._config.max_items)
        [source] = sources
        pictures = await self._pictures(request, entry, face, shape, source)
        outputs = checks.sized(outputs, entry, shape)
        checks.room(places, shape[0], outputs)
        seconds = self._config.timeout if caller.seconds is None else max(0.0, caller.seconds)
        by_parameter = 0 < timeout < seconds
        call = EmbedCall(
            model=entry.served.name,
            version=entry.version,
            pictures=pictures,
            outputs=tuple(Wanted(kind.name) for kind in outputs),
            size=None,
            max_reply_bytes=MAX_REPLY_BYTES,
            fingerprint="",
            request_bytes=request.size + (source.nbytes if isinstance(source, Slice) else 0),
        )
        form = Form(entry.name, entry.version, message.id, outputs, places, caller.streamed)
        start = perf_counter()
        try:
            return await self._run(
                entry,
                call,
                form,
                permit=permit,
                seconds=timeout if by_parameter else seconds,
                line=line,
            )
        except VitralError as error:
            self._statistics.failed(entry, (perf_counter() - start) * 1e3)
            raise translated(error, by_parameter=by_parameter) from None

    async def _run(
        self, entry: Entry, call: EmbedCall, form: Form, *, permit: Permit, seconds: float, line: RequestLine
    ) -> bytes:
        assert entry.served.engine is not None
        images = len(call.pictures)
        needed = fit(call, entry.served, entry.served.engine)
        line.found(entry.served, images=images, outputs=[part.name for part in needed.wanted])
        permit.hold(images, call.request_bytes + needed.bytes)
        assembly = InferAssembly(
            form,
            needed.target.spec,
            needed.wanted,
            images=images,
            deadline=monotonic() + seconds,
            trace=line.trace,
        )
        frame = await self._embedder.answer(call, needed, assembly, permit=permit, seconds=seconds)
        self._statistics.succeeded(entry, frame.timings, images=images, runs=assembly.runs)
        line.answered(entry.served, call, frame)
        return frame.message

    async def _pictures(
        self,
        request: Request,
        entry: Entry,
        face: Face,
        shape: tuple[int, ...],
        source: Source,
    ) -> tuple[Picture, ...]:
        size = contents.size(source, face.input)
        if size > MAX_MESSAGE_BYTES:
            told = f"input '{face.input.name}' has {size} bytes; the limit is {MAX_MESSAGE_BYTES}"
            raise TooLargeError(told)
        if face.door is Door.ENCODED:
            files = partial(contents.strings, source, shape[0], name=face.input.name)
            try:
                found = await self._made(files, size)
            except InvalidArgumentError as error:
                raise InvalidArgumentError(f"{request.prefix}{error}") from None
            return tuple(Picture(face.door, data) for data in found)
        checks.size(request, entry, face, shape, size)
        data = await self._made(
            partial(contents.load, source, face.input), 0 if isinstance(source, memoryview) else size
        )
        rows = np.frombuffer(data, numpy_dtype(face.input.dtype)).reshape(shape)
        return tuple(Picture(face.door, row) for row in rows)

    async def _made(self, make: Callable[[], _Made], size: int) -> _Made:
        """What `make` makes of so many bytes: here, or in a thread where they are many."""
        if size <= _AT_ONCE:
            return make()
        return await asyncio.get_running_loop().run_in_executor(self._pool, make)
