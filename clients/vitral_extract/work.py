"""The workers: batches are handed out in order, each worker does one whole, a writer finishes the shards."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

from vitral.errors import ImageError
from vitral.tensors import Array
from vitral_extract import layout
from vitral_extract.embedder import Embedder
from vitral_extract.formats import WRITERS
from vitral_extract.layout import Column
from vitral_extract.listing import Listing
from vitral_extract.plan import Part
from vitral_extract.settings import Settings
from vitral_extract.shard import DATA, Committed, Shard
from vitral_extract.stages import Stages
from vitral_extract.tally import Tally
from vitral_extract.thread import Thread

_BUFFERS = 2
"""Shards in memory: one is filled while the other is written."""


class StoppedError(Exception):
    """The run was stopped from outside."""


@dataclass(frozen=True)
class Batch:
    """Some pictures of a shard.

    Attributes:
        shard: the shard.
        start, stop: their places in it.
    """

    shard: Shard
    start: int
    stop: int


class Work:
    """One run of workers and a writer over the parts that are still to be done.

    Args:
        folder: of the run.
        settings: of the run.
        columns: the arrays.
        embedder: embeds.
        batch: pictures a worker takes at a time.
        parts: what is to be done.
        listing: what the parts' numbers mean.
        check: called with id and error of each picture that fails, from a worker; what it raises ends the
            run.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        columns: Sequence[Column],
        embedder: Embedder,
        *,
        batch: int,
        parts: Iterator[Part],
        listing: Listing,
        check: Callable[[str, ImageError], None],
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._columns = columns
        self._embedder = embedder
        self._batch = batch
        self._listing = listing
        self._check = check
        self.stages = Stages()
        self.tally = Tally()
        self._batches = self._cut(parts)
        self._hand_out = threading.Lock()
        self._finish = threading.Lock()
        self._free: queue.Queue[dict[str, Array]] = queue.Queue()
        for _ in range(_BUFFERS):
            self._free.put(layout.empty(min(settings.shard_rows, settings.count), columns, settings.dtype))
        self._full: queue.Queue[Shard | None] = queue.Queue()
        self._parts: dict[int, Part] = {}
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    def run(self, watch: Callable[[], None], *, every: float) -> None:
        """Does all of it; `watch` is called from this thread every so many seconds.

        Raises:
            BaseException: what ended it early. Shards that were finished stay.
        """
        workers = [
            Thread(partial(self._guarded, self._work), name=f"extract-{index}")
            for index in range(self._embedder.workers)
        ]
        writer = Thread(partial(self._guarded, self._write), name="extract-writer")
        for thread in (*workers, writer):
            thread.start()
        try:
            for thread in workers:
                _wait(thread, watch, every)
            self._full.put(None)
            _wait(writer, watch, every)
        except BaseException as error:  # Ctrl-C, as a rule: what is open is given up, what is done stays
            self._end(error)
            self._embedder.close()  # or calls under way would be waited for
            raise
        finally:
            for thread in (*workers, writer):
                thread.wait()
        if self._failure is not None:
            raise self._failure
        watch()

    def _guarded(self, what: Callable[[], None]) -> None:
        try:
            what()
        except StoppedError:
            pass
        except BaseException as error:  # reaches the caller through `run`
            self._end(error)

    def _end(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._stop.set()
        self._full.put(None)

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._hand_out:
                batch = next(self._batches, None)
            if batch is None:
                return
            self._embed(batch)

    def _embed(self, batch: Batch) -> None:
        shard = batch.shard
        rows = {name: array[batch.start : batch.stop] for name, array in shard.rows.items()}
        items = shard.items[batch.start : batch.stop]
        errors = self._embedder.embed(items, self._columns, rows, self.stages)
        bad = {place: error for place, error in enumerate(errors, batch.start) if error is not None}
        self.tally.add(pictures=len(items), errors=len(bad))
        for place, error in bad.items():
            self._check(shard.items[place].id, error)
        with self._finish:
            for place, error in bad.items():
                shard.fail(place, error)
            shard.left -= 1
            done = not shard.left
        if done:
            self._full.put(shard)

    def _cut(self, parts: Iterator[Part]) -> Iterator[Batch]:
        """Batches in order; a new shard begins when there is a free buffer for it."""
        for part in parts:
            numbers = part.numbers
            if isinstance(numbers, range):
                items = self._listing.items(numbers.start, numbers.stop)
            else:
                items = [self._listing.items(number, number + 1)[0] for number in numbers]
            starts = range(0, len(items), self._batch)
            start = perf_counter()
            rows = self._buffer()
            self.stages.add("wait", perf_counter() - start)
            self._parts[part.number] = part
            shard = Shard(part.number, numbers, items, rows, len(starts))
            for first in starts:
                yield Batch(shard, first, min(first + self._batch, len(items)))

    def _buffer(self) -> dict[str, Array]:
        while True:
            with suppress(queue.Empty):
                return self._free.get(timeout=0.1)
            if self._stop.is_set():
                raise StoppedError

    def _write(self) -> None:
        while (shard := self._full.get()) is not None:
            if self._stop.is_set():
                return
            start = perf_counter()
            ids, rows = shard.good()
            part = self._parts.pop(shard.number)
            files = WRITERS[self._settings.format](self._folder / DATA, f"{shard.number:06}", ids, rows)
            Committed(
                number=shard.number,
                first=-1 if part.round else part.numbers[0],
                count=len(shard.items),
                rows=len(ids),
                provider=self._embedder.provider,
                files=files,
                failures=shard.failures(),
                retried=tuple(part.numbers) if part.round else (),
                round=part.round,
            ).write(self._folder)
            written = sum((self._folder / DATA / name).stat().st_size for name in files)
            self.tally.add(bytes=written, shards=1)
            self._free.put(shard.rows)
            self.stages.add("write", perf_counter() - start)


def _wait(thread: Thread, watch: Callable[[], None], every: float) -> None:
    while not thread.wait(every):
        watch()
