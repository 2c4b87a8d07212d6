"""What is asked of a run, and what it will do: known, and refused, before anything is embedded."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vitral.errors import InvalidArgumentError, VitralError
from vitral_extract import layout, listing, plan, settings, shard, sources
from vitral_extract.embedder import Embedder
from vitral_extract.formats import WRITERS
from vitral_extract.layout import Column
from vitral_extract.listing import Facts
from vitral_extract.parquet import Columns
from vitral_extract.settings import Settings
from vitral_extract.shard import Committed

BATCH = 8
"""Pictures a worker takes at a time: larger ones fall out of a CPU's cache."""


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

    def demand(self, failed: int, count: int, last: str) -> None:
        """Refuses more errors than there may be.

        Raises:
            VitralError: with the numbers and the last error.
        """
        if failed > self.most(count):
            raise VitralError(
                f"{failed} of {count} pictures failed, {self.most(count)} may; the last: {last}"
            )


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
        shard_rows: pictures of a shard; 0: about 64 MiB, or as the run in the folder has it.
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
        done: shards that are finished.
        pictures: still to be embedded.
        bytes: what these will take on disk.
        free: bytes that are free there.
        resumed: whether the folder holds a part already.
    """

    settings: Settings
    columns: tuple[Column, ...]
    done: Mapping[int, Committed]
    pictures: int
    bytes: int
    free: int
    resumed: bool


def look(folder: Path, wanted: Wanted, embedder: Embedder) -> Outlook:
    """What a run would do, without writing anything.

    Raises:
        InvalidArgumentError: what is asked for is not possible, or the folder holds another run.
    """
    earlier = run_of(folder, retry_failed=wanted.retry_failed)
    suffixes = sources.suffixes_of(embedder.spec)
    items = sources.items(wanted.sources, wanted.columns, suffixes=suffixes)
    facts = listing.facts_of(items, failed_sizes(folder))
    if not facts.count:
        raise InvalidArgumentError("the sources hold no picture")
    if earlier is not None and facts.sha256 != earlier.source:
        raise InvalidArgumentError(source_differs(folder, earlier, facts, "name another --out"))
    return outlook(folder, wanted, embedder, facts)


def run_of(folder: Path, *, retry_failed: bool) -> Settings | None:
    """The run in a folder; None where one can begin.

    Raises:
        InvalidArgumentError: the folder holds something else, or nothing to retry.
    """
    earlier = settings.read(folder)
    if earlier is None and retry_failed:
        raise InvalidArgumentError(f"{folder} holds no run whose failed pictures could be retried")
    if earlier is None and folder.exists():
        known = (".lock", listing.FILE)
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".aside-")]
        if others := sorted(name for name in names if name not in known):
            raise InvalidArgumentError(
                f"{folder} is not empty and holds no run: {others[0]} is in it, for one"
            )
    return earlier


def failed_sizes(folder: Path) -> dict[int, int]:
    """Sizes, as first listed, of the pictures that failed once: mended, they are still the same source."""
    numbers = {failure.number for one in shard.committed(folder).values() for failure in one.failures}
    if not numbers:
        return {}
    known = listing.Listing(folder / listing.FILE)
    try:
        return {number: known.items(number, number + 1)[0].size for number in sorted(numbers)}
    finally:
        known.close()


def outlook(folder: Path, wanted: Wanted, embedder: Embedder, facts: Facts) -> Outlook:
    """What a run will do with a source of these facts.

    Raises:
        InvalidArgumentError: what is asked for is not possible, or the run in the folder has other settings.
    """
    columns = layout.columns(embedder.spec, wanted.outputs, wanted.views)
    earlier, done = settings.read(folder), shard.committed(folder)
    mine = _settings(wanted, embedder, columns, facts)
    if earlier is not None:
        if not wanted.shard_rows:
            mine = replace(mine, shard_rows=earlier.shard_rows)
        mine.demand(earlier, folder)
        mine = earlier
    plan.demand_size(columns, wanted.dtype, min(mine.shard_rows, mine.count))
    if wanted.retry_failed and not plan.complete(mine, done):
        raise InvalidArgumentError(
            f"{folder} is not finished: resume it before its failed pictures are retried"
        )
    pick = plan.retries if wanted.retry_failed else plan.parts
    pictures = sum(len(part.numbers) for part in pick(mine, done))
    where = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    size = plan.bytes_needed(columns, wanted.dtype, pictures, mine.shard_rows)
    free = shutil.disk_usage(where).free
    return Outlook(mine, columns, done, pictures, size, free, earlier is not None)


def source_differs(folder: Path, earlier: Settings, facts: Facts, why: str) -> str:
    """The sentence of a refusal."""
    was, now = (f"{count} pictures" for count in (earlier.count, facts.count))
    its, mine = earlier.source[:12], facts.sha256[:12]
    return f"{folder} holds a run whose source is {was} ({its}), this one's is {now} ({mine}): {why}"


def _settings(wanted: Wanted, embedder: Embedder, columns: tuple[Column, ...], facts: Facts) -> Settings:
    return Settings(
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
        decode=embedder.decode,
        size=embedder.size,
    )
