"""A thread that does what it is told, one thing after the other."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

_Task = tuple[Callable[[], None], "Future[None]"]


class Hand:
    """Ends with the object that holds it; being a daemon, it holds up no process."""

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True).start()
        weakref.finalize(self, self._tasks.put, None)

    def do(self, task: Callable[[], None]) -> None:
        """Runs the task in the thread, and raises here what it raised there."""
        done: Future[None] = Future()
        self._tasks.put((task, done))
        done.result()


def _work(tasks: SimpleQueue[_Task | None]) -> None:
    while (order := tasks.get()) is not None:
        task, done = order
        del order
        try:
            task()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)
        del task, done  # they hold a caller's buffers
