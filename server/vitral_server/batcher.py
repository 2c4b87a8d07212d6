"""Work-conserving batching: an idle session takes what is there at once; while it runs, the queue fills.

Rows of one image size share a run, and the oldest row there is says which.
One thread a run copies the rows in, runs, and hands every request its slices before the buffers go back.
Rows whose caller left or whose deadline passed are dropped before they cost a run.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from time import monotonic
from uuid import uuid4

from vitral.dynamic import Size
from vitral.errors import DeadlineError, QueueFullError, ServerError, TooLargeError, UnavailableError
from vitral.tensors import Array
from vitral_engine.session import GraphSession
from vitral_server.reply import Assembly
from vitral_server.telemetry import Runs
from vitral_server.waiting import Waiting

log = logging.getLogger(__name__)

_FAILURES = 3
"""Runs that fail in a row before the session counts as dead."""


@dataclass(frozen=True)
class Ticket:
    """One row in the queue.

    Attributes:
        assembly: the request it belongs to.
        index: its place there.
        row: what the graph takes.
        came: when it came.
        alone: whether no other request was in work then.
        size: of the image, for a model of dynamic size.
    """

    assembly: Assembly
    index: int
    row: Array
    came: float
    alone: bool = True
    size: Size | None = None


@dataclass(frozen=True)
class BatchOptions:
    """Batch size, concurrent runs, queue limit (0: none of its own) and delay of one session."""

    max_batch: int
    instances: int = 1
    max_queue: int = 0
    delay: float = 0.0
    run_timeout: float = 60.0


class Batcher:
    """The queue and the run threads of one session."""

    def __init__(
        self, session: GraphSession, options: BatchOptions, *, name: str, runs: Runs | None = None
    ) -> None:
        self._session, self._options, self._runs = session, options, runs
        self._queue = Waiting()
        self._ready = threading.Condition()
        self._closed = False
        self._dead = ""
        self._busy = 0  # runs that have taken a batch
        self._running: dict[int, float] = {}  # thread to when its run began
        self._failures = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"run {name} {i}", daemon=True)
            for i in range(options.instances)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, tickets: list[Ticket], *, here: bool = False) -> None:
        """Queues the rows of a request.

        Args:
            tickets: the rows.
            here: whether this thread may do the next run, if one can begin. On a CPU that is the shortest
                way: the row is still in the core's cache, and no thread has to be woken.

        Raises:
            QueueFullError: the model's own queue limit would be crossed.
            UnavailableError: the session is dead or closed.
        """
        with self._ready:
            if self._closed or self._dead:
                raise UnavailableError(f"the model's engine is not running: {self._dead or 'closed'}")
            limit = self._options.max_queue
            if limit and len(tickets) > limit:
                told = f"{len(tickets)} images came in one call"
                raise TooLargeError(f"{told}; the limit of this model is {limit}")
            if limit and len(self._queue) + len(tickets) > limit:
                waiting = f"{len(self._queue)} images wait and {len(tickets)} more came"
                raise QueueFullError(f"{waiting}; the limit of this model is {limit}")
            self._queue.extend(tickets)
            free = self._busy < self._options.instances
            if not (here and free and self._session.has_crowd and not self._options.delay):
                self._ready.notify()
                return
            batch = self._next()
        if batch:
            self._run(batch)

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return len(self._queue)

    @property
    def busy(self) -> int:
        """Runs that have taken a batch and not ended."""
        return self._busy

    def fault(self) -> str:
        """Why this session is dead or stuck; empty while it is well."""
        if self._dead:
            return self._dead
        oldest = min(self._running.values(), default=None)
        if oldest is not None and monotonic() - oldest > self._options.run_timeout:
            return f"a run has not returned for more than {self._options.run_timeout:g} s"
        return ""

    def close(self) -> None:
        """Ends the threads when the queue is empty; does not wait for a stuck run."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join(timeout=0.5)

    def _work(self) -> None:
        try:
            while (batch := self._take()) is not None:
                if batch:
                    self._run(batch)
                batch.clear()  # this thread may wait for long, and rows may be memory that callers share
        except BaseException as error:  # whatever ends this thread must be seen
            self._die(f"its run thread ended: {error!r}")
            raise

    def _take(self) -> list[Ticket] | None:
        """The next batch; empty when all were dropped, None when closed."""
        with self._ready:
            while not self._dead and not (self._queue and self._busy < self._options.instances):
                if self._closed and not self._queue:
                    return None
                self._ready.wait()
            if self._dead:
                return None
            self._wait_to_fill()
            return self._next()

    def _next(self) -> list[Ticket]:
        """The next batch, and a run taken for it unless it is empty. With the lock held."""
        batch: list[Ticket] = []
        share = self._share()
        while self._queue and not batch:
            size = self._queue.oldest().size
            most = min(share, self._most(size))
            while len(batch) < most and (ticket := self._queue.take(size)) is not None:
                if self._live(ticket):
                    batch.append(ticket)
        self._busy += bool(batch)
        if self._queue:
            self._ready.notify()
        return batch

    def _done(self) -> None:
        with self._ready:
            self._busy -= 1
            if self._queue or self._closed:
                self._ready.notify()

    def _share(self) -> int:
        """Rows of the next run: several that share the cores leave each other their part of the queue."""
        most = self._options.max_batch
        if not self._session.has_crowd:
            return most
        return max(1, min(most, -(-len(self._queue) // self._options.instances)))

    def _most(self, size: Size | None) -> int:
        """Rows of one run at this size."""
        return self._session.most_rows(self._options.max_batch, size)

    def _wait_to_fill(self) -> None:
        options = self._options
        if not options.delay:
            return
        until = self._queue.oldest().came + options.delay
        while self._queue and len(self._queue) < options.max_batch and (left := until - monotonic()) > 0:
            self._ready.wait(left)

    def _live(self, ticket: Ticket) -> bool:
        if ticket.assembly.gone:
            return False
        late = monotonic() - ticket.assembly.deadline
        if late > 0:
            ticket.assembly.fail(DeadlineError(f"the deadline passed {late * 1e3:.0f} ms ago, in the queue"))
        return late <= 0

    def _run(self, batch: list[Ticket]) -> None:
        start, thread = monotonic(), threading.get_ident()
        # Where others are decoded meanwhile, they need the cores too.
        alone = not self._running and not self._queue and all(ticket.alone for ticket in batch)
        self._running[thread] = start
        try:
            size = batch[0].size
            with self._session.lease(self._most(size), size) as buffers:
                for place, ticket in enumerate(batch):
                    buffers.fill(place, ticket.row)
                self._session.run_bound(buffers, len(batch), alone=alone)
                outputs = {name: array[: len(batch)] for name, array in buffers.outputs.items()}
                run_ms = (monotonic() - start) * 1e3
                if self._runs is not None:
                    self._runs.ran(batch, start)
                self._deliver(batch, outputs, start, run_ms)
            self._failures = 0
        except Exception:
            self._failed(batch, start)
        finally:
            del self._running[thread]
            self._done()

    def _deliver(self, batch: list[Ticket], outputs: dict[str, Array], start: float, run_ms: float) -> None:
        rows: dict[Assembly, list[tuple[int, int]]] = {}
        came: dict[Assembly, float] = {}
        for row, ticket in enumerate(batch):
            rows.setdefault(ticket.assembly, []).append((ticket.index, row))
            came[ticket.assembly] = ticket.came
        for assembly, pairs in rows.items():
            assembly.deliver(pairs, outputs, queue_ms=(start - came[assembly]) * 1e3, run_ms=run_ms)

    def _failed(self, batch: list[Ticket], start: float) -> None:
        number = uuid4().hex[:12]
        log.exception("run failed", extra={"error_id": number, "batch": len(batch)})
        if self._runs is not None:
            self._runs.failed(batch, start)
        for assembly in {ticket.assembly for ticket in batch}:
            assembly.fail(ServerError(f"the run failed; the server's log explains it under id {number}"))
        self._failures += 1
        if self._failures >= _FAILURES:
            self._die(f"its last {self._failures} runs failed, see log id {number}")

    def _die(self, reason: str) -> None:
        with self._ready:
            self._dead = reason
            left, self._queue = list(self._queue), Waiting()
            self._ready.notify_all()
        for assembly in {ticket.assembly for ticket in left}:
            assembly.fail(UnavailableError(f"the model's engine is not running: {reason}"))
