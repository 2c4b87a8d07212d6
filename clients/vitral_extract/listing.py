"""The whole source, written down: what a run has to do, and what a later one is compared with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitral.errors import ArtifactError, InvalidArgumentError
from vitral_extract.item import Item, Kind

FILE = "listing.parquet"
"""Name of the file in the folder of a run."""

_GROUP = 16_384  # rows; what is in memory at a time
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.uint8()),
        ("path", pa.binary()),  # names of files need not be text
        ("size", pa.int64()),
        ("first", pa.int64()),
        ("second", pa.int64()),
        ("column", pa.string()),
    ]
)
_SHOWN = 5

Counted = Callable[[int], None]
"""Called now and then with how many were listed."""


@dataclass(frozen=True)
class Facts:
    """What a listing is, without its items.

    Attributes:
        count: pictures.
        sha256: over every id and size, in order.
    """

    count: int
    sha256: str


@dataclass
class _Tally:
    """Facts while they are gathered."""

    sizes: Mapping[int, int]
    count: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, item: Item) -> int:
        """Counts an item, and gives the size that counts for it."""
        size = self.sizes.get(self.count, item.size)
        self.digest.update(f"{len(item.id)} {item.id} {size}\n".encode())
        self.count += 1
        return size

    def facts(self) -> Facts:
        return Facts(self.count, self.digest.hexdigest())


def write(items: Iterable[Item], path: Path, sizes: Mapping[int, int], counted: Counted) -> Facts:
    """Writes a listing; memory holds eight bytes an item.

    Args:
        items: the pictures.
        path: the file.
        sizes: of pictures, by number, that count instead of their own: of those that failed, which may
            have been mended since.
        counted: called now and then.

    Raises:
        InvalidArgumentError: there is no picture, or two have one id; the message names them.
    """
    tally = _Tally(sizes)
    hashes = [np.empty(0, np.uint64)]
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for group in _groups(items):
            told = [tally.add(item) for item in group]
            hashes.append(np.array([_hash(item.id) for item in group], np.uint64))
            writer.write_table(_table(group, told))
            counted(tally.count)
    if not tally.count:
        raise InvalidArgumentError(
            "the sources hold no picture; of a folder only pictures are taken: name tar and Parquet files"
        )
    _refuse_duplicates(np.concatenate(hashes), path)
    return tally.facts()


def facts_of(items: Iterable[Item], sizes: Mapping[int, int]) -> Facts:
    """The facts of a listing that is not written."""
    tally = _Tally(sizes)
    for item in items:
        tally.add(item)
    return tally.facts()


class Listing:
    """A written listing, read a group at a time. Not for several threads.

    Raises:
        ArtifactError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from None
        self._group: tuple[int, list[Item]] = (-1, [])

    def __len__(self) -> int:
        """Number of items."""
        return int(self._file.metadata.num_rows)

    def items(self, start: int, stop: int) -> list[Item]:
        """The items from number `start` up to `stop`."""
        found: list[Item] = []
        for group in range(start // _GROUP, -(-stop // _GROUP)):
            first = group * _GROUP
            found += self._read(group)[max(0, start - first) : stop - first]
        return found

    def __iter__(self) -> Iterator[Item]:
        """Every item in order."""
        for group in range(self._file.num_row_groups):
            yield from self._read(group)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _read(self, group: int) -> list[Item]:
        if self._group[0] != group:
            self._group = (group, _items(self._file.read_row_group(group)))
        return self._group[1]


def difference(earlier: Path, now: Path) -> str:
    """The first picture in which two written listings differ, in words."""
    one, other = Listing(earlier), Listing(now)
    try:
        for number, (was, is_) in enumerate(zip_longest(one, other)):
            if was is None or is_ is None or (was.id, was.size) != (is_.id, is_.size):
                return f"picture {number} was {_said(was)} and is {_said(is_)}"
        return "they list the same"
    finally:
        one.close()
        other.close()


def _said(item: Item | None) -> str:
    return "none" if item is None else f"{item.id} of {item.size} bytes"


def _groups(items: Iterable[Item]) -> Iterator[list[Item]]:
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == _GROUP:
            yield group
            group = []
    if group:
        yield group


def _table(items: list[Item], sizes: list[int]) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [getattr(item, name) for item in items] for name in _SCHEMA.names}
    columns |= {"path": [os.fsencode(item.path) for item in items], "size": sizes}
    return pa.table(columns, schema=_SCHEMA)


def _items(table: pa.Table) -> list[Item]:
    columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
    return [
        Item(name, Kind(kind), os.fsdecode(path), size, first, second, column)
        for name, kind, path, size, first, second, column in zip(*columns, strict=True)
    ]


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _refuse_duplicates(hashes: np.ndarray[tuple[int], np.dtype[np.uint64]], path: Path) -> None:
    """Equal hashes are looked up by name: two names of one hash are no duplicates."""
    ordered = np.sort(hashes)
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    seen: dict[str, str] = {}
    found: list[str] = []
    count = 0
    listing = Listing(path)
    try:
        for item in listing:
            if _hash(item.id) not in suspects:
                continue
            if item.id in seen:
                count += 1
                if count <= _SHOWN:
                    found.append(f"{item.id} ({seen[item.id]} and {item.path})")
            seen[item.id] = item.path
    finally:
        listing.close()
    if found:
        more = f" and {count - len(found)} more" if count > len(found) else ""
        raise InvalidArgumentError(f"{count} ids stand for two pictures each: {'; '.join(found)}{more}")
