"""One run of `vitral extract`: what is there is checked, what is missing is made, then it is finished."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from vitral.errors import ImageError, InvalidArgumentError, VitralError
from vitral_extract import commit, finish, layout, listing, lock, plan, shard, sources
from vitral_extract.embedder import Embedder
from vitral_extract.listing import Listing
from vitral_extract.outlook import (
    Limit,
    Outlook,
    Wanted,
    failed_sizes,
    outlook,
    run_of,
    source_differs,
)
from vitral_extract.work import Work

_EVERY = 0.25  # seconds between two looks at the counts
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Watcher(Protocol):
    """Who is told how far a run is; called from the thread that runs it."""

    def listed(self, count: int) -> None:
        """Now and then while the source is listed: how many pictures there are so far."""

    def seen(self, work: Work, outlook: Outlook) -> None:
        """A few times a second: what is done, and what was to be done."""


@dataclass(frozen=True)
class Done:
    """A finished run.

    Attributes:
        manifest: of the data set.
        work: what was done for it now; None: it was there.
    """

    manifest: dict[str, Any]
    work: Work | None


def extract(folder: Path, wanted: Wanted, embedder: Embedder, watcher: Watcher) -> Done:
    """Makes the data set, or what is missing of it.

    Raises:
        InvalidArgumentError: what is asked for is not possible, or the folder holds a run of other settings.
        UnavailableError: another run is writing the folder.
        VitralError: the disk is full, too many pictures failed, or all of them. What was finished stays, to
            be resumed.
    """
    begun = monotonic()
    layout.columns(embedder.spec, wanted.outputs, wanted.views)
    run_of(folder, retry_failed=wanted.retry_failed)
    folder.mkdir(parents=True, exist_ok=True)
    with lock.hold(folder), _room(folder):
        ahead = _begin(folder, wanted, embedder, watcher)
        if not ahead.pictures and (finished := finish.current(folder, ahead.done)) is not None:
            return Done(finished, None)
        work = _work(folder, wanted, embedder, watcher, ahead)
        done = shard.committed(folder)
        finish.write_errors(folder, done)
        if not any(one.rows for one in done.values()):
            failed = finish.failures_of(done)
            raise VitralError(
                f"all {len(failed)} pictures failed, the first, {failed[0].id}: {failed[0].message}"
            )
        manifest = finish.finish(
            folder, ahead.settings, ahead.columns, done, embedder=embedder, seconds=monotonic() - begun
        )
        return Done(manifest, work)


def _begin(folder: Path, wanted: Wanted, embedder: Embedder, watcher: Watcher) -> Outlook:
    """Lists the source and compares it with what is there, or writes the settings of a new run."""
    earlier = run_of(folder, retry_failed=wanted.retry_failed)
    if earlier is None:
        commit.sweep(folder)
    shard.forget_lost(folder)
    with commit.aside(folder / listing.FILE) as path:
        suffixes = sources.suffixes_of(embedder.spec)
        items = sources.items(wanted.sources, wanted.columns, suffixes=suffixes)
        facts = listing.write(items, path, failed_sizes(folder), watcher.listed)
        if earlier is not None and facts.sha256 != earlier.source:
            why = listing.difference(folder / listing.FILE, path)
            raise InvalidArgumentError(f"{source_differs(folder, earlier, facts, why)}; name another --out")
        ahead = outlook(folder, wanted, embedder, facts)
        if ahead.bytes > ahead.free:
            raise InvalidArgumentError(
                f"{ahead.pictures} pictures need about {ahead.bytes} bytes, {folder} has {ahead.free} free"
            )
    # The listing of now: the source may have been moved since, or mended where it failed.
    if earlier is None:
        ahead.settings.write(folder)
    for name in (shard.COMMITS, shard.DATA):
        (folder / name).mkdir(exist_ok=True)
    shard.sweep(folder, ahead.done)
    return ahead


def _work(folder: Path, wanted: Wanted, embedder: Embedder, watcher: Watcher, ahead: Outlook) -> Work:
    pick = plan.retries if wanted.retry_failed else plan.parts
    known = Listing(folder / listing.FILE)
    try:
        work = Work(
            folder,
            ahead.settings,
            ahead.columns,
            embedder,
            batch=wanted.batch,
            parts=pick(ahead.settings, ahead.done),
            listing=known,
            check=_Limiter(wanted.limit, ahead, retry=wanted.retry_failed),
        )
        work.run(lambda: watcher.seen(work, ahead), every=_EVERY)
        return work
    finally:
        known.close()


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Says in one line that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        done = len(shard.committed(folder))
        raise VitralError(
            f"no space is left for {folder} ({os.strerror(error.errno)}): {done} shards are finished "
            "and stay; make room, and the same command goes on"
        ) from None


class _Limiter:
    """Ends the run when more pictures have failed than may."""

    def __init__(self, limit: Limit, ahead: Outlook, *, retry: bool) -> None:
        self._limit = limit
        self._count = ahead.settings.count
        failed = finish.failures_of(ahead.done)
        # What failed before and is tried again does not count twice.
        self._failed = 0 if retry else len(failed)
        self._lock = threading.Lock()
        if failed and not retry:
            limit.demand(len(failed), self._count, f"{failed[-1].id}: {failed[-1].message}")

    def __call__(self, name: str, error: ImageError) -> None:
        """One more: its id and its error."""
        with self._lock:
            self._failed += 1
            self._limit.demand(self._failed, self._count, f"{name}: {error}")
