"""The rows that wait for a run, those of one size together: only they can share a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vitral.dynamic import Size

if TYPE_CHECKING:
    from vitral_server.batcher import Ticket


class Waiting:
    """Rows in the order they came, by size. Whoever takes a batch takes that of the oldest row.

    So a size that is rare waits no longer than what came before it takes.
    """

    def __init__(self) -> None:
        self._queues: dict[Size | None, deque[Ticket]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Rows of all sizes."""
        return self._count

    def __iter__(self) -> Iterator[Ticket]:
        """All of them, size by size."""
        for queue in self._queues.values():
            yield from queue

    def extend(self, tickets: Sequence[Ticket]) -> None:
        """More rows, behind those there are."""
        for ticket in tickets:
            queue = self._queues.get(ticket.size)
            if queue is None:
                queue = self._queues[ticket.size] = deque()
            queue.append(ticket)
        self._count += len(tickets)

    def oldest(self) -> Ticket:
        """The row that came first of those there are."""
        queues = self._queues.values()
        return next(iter(queues))[0] if len(queues) == 1 else min((queue[0] for queue in queues), key=_came)

    def take(self, size: Size | None) -> Ticket | None:
        """The oldest row of this size; None where there is none."""
        queue = self._queues.get(size)
        if queue is None:
            return None
        ticket = queue.popleft()
        if not queue:
            del self._queues[size]  # callers may name many
        self._count -= 1
        return ticket


def _came(ticket: Ticket) -> float:
    return ticket.came
