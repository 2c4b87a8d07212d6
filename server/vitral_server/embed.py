"""One request through the house: plan, admission, decode, preprocess, batch, reply."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

from vitral.errors import DeadlineError
from vitral_server.admission import Permit
from vitral_server.call import EmbedCall
from vitral_server.feed import Feed
from vitral_server.log import RequestLine
from vitral_server.place import Place
from vitral_server.plan import Plan, plan
from vitral_server.registry import Registry, Served
from vitral_server.reply import Assembly, Frame


class Embedder:
    """Answers Embed calls. Lives on the event loop; decoding and runs happen in threads."""

    def __init__(self, registry: Registry, pool: ThreadPoolExecutor) -> None:
        self._registry = registry
        self._pool = pool

    async def embed(
        self, call: EmbedCall, *, permit: Permit, seconds: float, line: RequestLine
    ) -> tuple[Served, Frame]:
        """The framed reply, within `seconds`.

        Raises:
            VitralError: the request as a whole cannot be answered.
        """
        deadline = monotonic() + seconds
        needed = plan(call, self._registry)
        images, spec, version = len(call.pictures), needed.target.spec, needed.served.version
        line.found(needed.served, images=images, outputs=[part.name for part in needed.wanted])
        place = None
        if call.reply:
            place = Place(call.reply, spec, needed.wanted, images=images, others=needed.others)
        permit.hold(images, call.request_bytes + needed.bytes)
        assembly = Assembly(
            spec,
            version,
            needed.wanted,
            images=images,
            deadline=deadline,
            decode=needed.engine.decode,
            place=place,
            trace=line.trace,
            others=needed.others,
        )
        return needed.served, await self.answer(call, needed, assembly, permit=permit, seconds=seconds)

    async def answer(
        self, call: EmbedCall, needed: Plan, assembly: Assembly, *, permit: Permit, seconds: float
    ) -> Frame:
        """What the assembly frames of the call's pictures; the permit holds room for them.

        Raises:
            VitralError: the request as a whole cannot be answered.
        """
        message = f"the deadline of {seconds * 1e3:.0f} ms passed before the answer was there"
        # The loop's clock is monotonic() too.
        alarm = asyncio.get_running_loop().call_at(assembly.deadline, assembly.end, DeadlineError(message))
        feed = Feed(call, needed, assembly, permit)
        try:
            feed.start(self._pool, size=call.request_bytes)
            return await assembly.future
        finally:
            alarm.cancel()
            feed.leave()
            assembly.leave()  # rows that are still queued cost nothing any more
