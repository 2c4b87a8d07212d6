"""One run of `vitral extract`: what is there is checked, what is missing is made, then it is finished."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from vitral.errors import ImageError, InvalidArgumentError, VitralError
from vitral_extract import commit, finish, layout, listing, lock, plan, settings, shard, sources
from vitral_extract.embedder import Embedder
from vitral_extract.formats import WRITERS
from vitral_extract.layout import Column
from vitral_extract.listing import Listing
from vitral_extract.settings import Settings
from vitral_extract.sources import Columns
from vitral_extract.work import Work

BATCH = 8
"""Pictures a worker takes at a time: larger ones fall out of a CPU's cache."""

_EVERY = 0.25  # seconds between two looks at the counts


@dataclass(frozen=True)
class Limit:
    """How many pictures may fail: a number, or a share of those of the source; None: any."""

    number: int | None = None
    share: float | None = None

    def most(self, count: int) -> int:
        """The largest number of errors among this many pictures."""
        if self.number is not None:
            return self.number
        return count if self.share is None else int(self.share * count)


@dataclass(frozen=True)
class Wanted:
    """What is asked of a run.

    Attributes:
        sources: SOURCE arguments.
        columns: columns of Parquet sources.
        outputs: of the model; none: its defaults.
        views: of token sequences.
        dtype: of the arrays.
        format: of the files.
        batch: pictures a worker takes at a time.
        shard_rows: pictures of a shard; 0: about 64 MiB.
        limit: how many may fail.
        retry_failed: only what failed.
    """

    sources: tuple[str, ...]
    columns: Columns = field(default_factory=Columns)
    outputs: tuple[str, ...] = ()
    views: tuple[str, ...] = ("patches",)
    dtype: str = layout.DTYPES[0]
    format: str = next(iter(WRITERS))
    batch: int = BATCH
    shard_rows: int = 0
    limit: Limit = field(default_factory=Limit)
    retry_failed: bool = False


@dataclass(frozen=True)
class Outlook:
    """What a run will do, known before it begins.

    Attributes:
        settings: of the data set.
        columns: its arrays.
        pictures: still to be embedded.
        bytes: what these will take on disk.
        free: bytes that are free there.
        resumed: whether the folder holds a part already.
    """

    settings: Settings
    columns: tuple[Column, ...]
    pictures: int
    bytes: int
    free: int
    resumed: bool


def look(folder: Path, wanted: Wanted, embedder: Embedder) -> Outlook:
    """What a run would do, without writing anything.

    Raises:
        InvalidArgumentError: what is asked for is not possible, or the folder holds another run.
    """
    columns = layout.columns(embedder.spec, wanted.outputs, wanted.views)
    facts = listing.facts_of(sources.items(wanted.sources, wanted.columns))
    return _outlook(folder, wanted, embedder, columns, facts)


def extract(
    folder: Path, wanted: Wanted, embedder: Embedder, watch: Callable[[Work, Outlook], None]
) -> dict[str, Any]:
    """Makes the data set, or what is missing of it, and returns its manifest.

    `watch` is called from this thread a few times a second.

    Raises:
        InvalidArgumentError: what is asked for is not possible, or the folder holds a run of other settings.
        UnavailableError: another run is writing the folder.
        VitralError: too many pictures failed, or all of them. What was finished stays, to be resumed.
    """
    begun = monotonic()
    columns = layout.columns(embedder.spec, wanted.outputs, wanted.views)
    folder.mkdir(parents=True, exist_ok=True)
    with lock.hold(folder):
        commit.sweep(folder)
        outlook = _begin(folder, wanted, embedder, columns)
        for name in (shard.COMMITS, shard.DATA):
            (folder / name).mkdir(exist_ok=True)
        done = shard.committed(folder)
        if not outlook.pictures and (finished := finish.manifest_of(folder)) is not None:
            return finished
        pick = plan.retries if wanted.retry_failed else plan.parts
        known = Listing(folder)
        try:
            work = Work(
                folder,
                outlook.settings,
                columns,
                embedder,
                batch=wanted.batch,
                parts=pick(outlook.settings, done),
                listing=known,
                check=_Limiter(wanted.limit, outlook.settings.count, done, retry=wanted.retry_failed),
            )
            work.run(lambda: watch(work, outlook), every=_EVERY)
        finally:
            known.close()
        done = shard.committed(folder)
        if not any(one.rows for one in done.values()):
            failed = finish.failures_of(done)
            raise VitralError(
                f"all {len(failed)} pictures failed, the first, {failed[0].id}: {failed[0].message}"
            )
        return finish.finish(
            folder,
            outlook.settings,
            columns,
            done,
            spec=embedder.spec,
            provider=embedder.provider,
            seconds=monotonic() - begun,
        )


def _begin(folder: Path, wanted: Wanted, embedder: Embedder, columns: tuple[Column, ...]) -> Outlook:
    """Compares with what is there, or writes listing and settings of a new run."""
    earlier = settings.read(folder)
    if earlier is None and wanted.retry_failed:
        raise InvalidArgumentError(f"{folder} holds no run whose failed pictures could be retried")
    if earlier is None:
        others = [path.name for path in folder.iterdir() if path.name not in (lock.FILE, listing.FILE)]
        if others:
            raise InvalidArgumentError(
                f"{folder} is not empty and holds no run: {others[0]} is in it, for one"
            )
    items = sources.items(wanted.sources, wanted.columns)
    facts = listing.write(items, folder) if earlier is None else listing.facts_of(items)
    outlook = _outlook(folder, wanted, embedder, columns, facts)
    if outlook.bytes > outlook.free:
        raise InvalidArgumentError(
            f"{outlook.pictures} pictures need about {outlook.bytes} bytes, {folder} has {outlook.free} free"
        )
    if earlier is None:
        outlook.settings.write(folder)
    if wanted.retry_failed and not plan.complete(outlook.settings, shard.committed(folder)):
        raise InvalidArgumentError(
            f"{folder} is not finished: resume it before its failed pictures are retried"
        )
    return outlook


def _outlook(
    folder: Path, wanted: Wanted, embedder: Embedder, columns: tuple[Column, ...], facts: listing.Facts
) -> Outlook:
    mine = Settings(
        model=embedder.spec.name,
        version=embedder.version,
        fingerprint=embedder.spec.fingerprint,
        preprocessing=settings.preprocessing_of(embedder.spec),
        outputs=tuple(column.name for column in columns),
        dtype=wanted.dtype,
        format=wanted.format,
        shard_rows=wanted.shard_rows or plan.shard_rows(columns, wanted.dtype),
        count=facts.count,
        source=facts.sha256,
    )
    earlier = settings.read(folder)
    if earlier is not None:
        if not wanted.shard_rows:
            mine = Settings(**{**vars(mine), "shard_rows": earlier.shard_rows})
        mine.demand(earlier, folder)
        mine = earlier
    done = shard.committed(folder)
    pick = plan.retries if wanted.retry_failed else plan.parts
    pictures = sum(len(part.numbers) for part in pick(mine, done))
    where = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    size = plan.bytes_needed(columns, wanted.dtype, pictures)
    return Outlook(mine, columns, pictures, size, shutil.disk_usage(where).free, earlier is not None)


class _Limiter:
    """Ends the run when more pictures have failed than may."""

    def __init__(self, limit: Limit, count: int, done: dict[int, shard.Committed], *, retry: bool) -> None:
        self._most = limit.most(count)
        self._count = count
        self._failed = 0 if retry else len(plan.failure_numbers(done))
        self._lock = threading.Lock()

    def __call__(self, error: ImageError) -> None:
        """One more."""
        with self._lock:
            self._failed += 1
            if self._failed > self._most:
                said = f"{self._failed} of {self._count} pictures failed, {self._most} may"
                raise VitralError(f"{said}; the last: {error}")
