"""Brings the pictures of one request to their queues.

What costs next to nothing is done at once; the rest goes to the decoding pool, and whichever thread has the
last row queues them all, without a way back through the event loop.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from time import monotonic

from vitral.errors import DeadlineError, ImageError, VitralError
from vitral_engine.intake import Row
from vitral_server.admission import Permit
from vitral_server.batcher import Ticket
from vitral_server.call import Door, EmbedCall, Picture
from vitral_server.plan import Plan
from vitral_server.reply import Assembly
from vitral_server.target import Target

_AT_ONCE = 1 << 20
"""Bytes of one request that the event loop itself may make rows of: more would hold up everybody."""


class Feed:
    """The pictures of one request on their way to the queue."""

    def __init__(self, call: EmbedCall, plan: Plan, assembly: Assembly, permit: Permit) -> None:
        self._pictures, self._plan, self._assembly, self._permit = call.pictures, plan, assembly, permit
        self._rows: list[Row | ImageError | None] = [None] * len(call.pictures)
        self._under_way: list[Future[None]] = []
        self._left = 0
        self._lock = threading.Lock()

    def start(self, pool: ThreadPoolExecutor, *, size: int) -> None:
        """Begins; to be called from the event loop.

        Args:
            pool: threads that decode.
            size: bytes of the request.

        Raises:
            VitralError: the request as a whole cannot be answered.
        """
        slow = []
        for index, picture in enumerate(self._pictures):
            if picture.door is Door.TENSOR or (size <= _AT_ONCE and self._is_ready(index, picture)):
                self._rows[index] = self._row(index, picture)
            else:
                slow.append(index)
        if not slow:
            self._submit(here=False)
            return
        self._left = len(slow)
        for index in slow:
            # The pool keeps what waits in it until its turn, cancelled or not: no picture is part of that.
            cell = [self._pictures[index]]
            self._permit.share()  # a caller may leave; the thread that decodes for it goes on
            work = pool.submit(self._prepare, index, cell)
            work.add_done_callback(partial(self._done, cell))
            self._under_way.append(work)
        self._pictures = ()

    def leave(self) -> None:
        """Nobody waits any more: what has not begun never will."""
        for work in self._under_way:
            work.cancel()

    def _done(self, cell: list[Picture], _: object) -> None:
        cell.clear()
        self._permit.end()

    def _is_ready(self, index: int, picture: Picture) -> bool:
        """Whether there is nothing to decode or to resize."""
        content, target = picture.content, self._plan.of(index)
        if isinstance(content, ImageError) or isinstance(target, ImageError) or picture.door is Door.PREPARED:
            return True
        graph = self._plan.sessions[picture.door].graph
        return not isinstance(content, bytes) and target.intake.keeps(content, graph)

    def _prepare(self, index: int, cell: list[Picture]) -> None:
        """Decodes and preprocesses one picture, in a pool thread; nothing for callers that are gone."""
        try:
            if self._assembly.gone or monotonic() > self._assembly.deadline:
                raise DeadlineError("nobody waits for this image any more")
            row = self._row(index, cell[0])
            if self._assembly.trace is not None and isinstance(row, Row):
                self._assembly.trace.read(row)
            with self._lock:
                self._rows[index] = row
                self._left -= 1
                last = self._left == 0
            if last:
                self._submit(here=True)
        except Exception as error:  # reaches the handler, which knows what to say
            if isinstance(error, VitralError):
                error.__traceback__ = None  # it holds this frame
            self._assembly.fail(error)

    def _row(self, index: int, picture: Picture) -> Row | ImageError:
        content, graph = picture.content, self._plan.sessions[picture.door].graph
        target = self._plan.of(index)
        try:
            if isinstance(content, ImageError):
                return content
            if isinstance(target, ImageError):
                return target
            intake = target.intake
            if isinstance(content, bytes):
                return intake.encoded(content, graph)
            if picture.door is Door.PIXELS:
                return intake.pixels(content, graph)
            if picture.door is Door.TENSOR:
                return Row(content)
            return intake.prepared(content)
        except ImageError as error:
            # Its traceback holds this frame, and so the whole request, in a cycle.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return error

    def _submit(self, *, here: bool) -> None:
        """Queues every row.

        Args:
            here: whether this thread may run them too.

        Raises:
            QueueFullError: the model's own queue limit would be crossed.
            UnavailableError: the session is dead or closed.
        """
        assembly, plan, now, alone = self._assembly, self._plan, monotonic(), self._permit.alone
        tickets: dict[Door, list[Ticket]] = {}
        for index, (door, row) in enumerate(zip(plan.doors, self._rows, strict=True)):
            if isinstance(row, ImageError):
                assembly.refuse(index, row)
            elif row is not None:
                assembly.stages.decode += row.decode_ms
                assembly.stages.preprocess += row.preprocess_ms
                target = plan.of(index)
                size = target.size if isinstance(target, Target) else None
                tickets.setdefault(door, []).append(Ticket(assembly, index, row.array, now, alone, size))
        self._rows = []
        for door, queued in tickets.items():
            plan.served.batcher_of(plan.sessions[door]).submit(queued, here=here)
