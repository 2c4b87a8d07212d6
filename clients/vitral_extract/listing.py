"""The whole source, written down once: what a run has to do, and what a later one is compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitral.errors import InvalidArgumentError
from vitral_extract.commit import aside
from vitral_extract.item import Item, Kind

FILE = "listing.parquet"
"""Name of the file in the folder of a run."""

_GROUP = 16_384  # rows; what is in memory at a time
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.uint8()),
        ("path", pa.string()),
        ("first", pa.int64()),
        ("second", pa.int64()),
        ("column", pa.string()),
    ]
)
_SHOWN = 5


@dataclass(frozen=True)
class Facts:
    """What a listing is, without its items.

    Attributes:
        count: pictures.
        sha256: over every id and size, in order.
    """

    count: int
    sha256: str


def write(items: Iterable[Item], folder: Path) -> Facts:
    """Writes the listing into the folder of a run; memory holds eight bytes an item.

    Raises:
        InvalidArgumentError: there is no picture, or two have one id; the message names them.
    """
    digest, count = hashlib.sha256(), 0
    hashes = [np.empty(0, np.uint64)]
    with aside(folder / FILE) as path:
        with pq.ParquetWriter(path, _SCHEMA) as writer:
            for group in _groups(items):
                count += len(group)
                for item in group:
                    digest.update(f"{item.id}\0{item.second}\n".encode())
                hashes.append(np.array([_hash(item.id) for item in group], np.uint64))
                writer.write_table(_table(group))
        if not count:
            raise InvalidArgumentError("the sources hold no picture")
        _refuse_duplicates(np.concatenate(hashes), path)
    return Facts(count, digest.hexdigest())


def facts_of(items: Iterable[Item]) -> Facts:
    """The facts of a listing that is not written."""
    digest, count = hashlib.sha256(), 0
    for item in items:
        digest.update(f"{item.id}\0{item.second}\n".encode())
        count += 1
    return Facts(count, digest.hexdigest())


class Listing:
    """A written listing, read a group at a time. Not for several threads."""

    def __init__(self, folder: Path) -> None:
        self._file = pq.ParquetFile(folder / FILE)
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


def _groups(items: Iterable[Item]) -> Iterator[list[Item]]:
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == _GROUP:
            yield group
            group = []
    if group:
        yield group


def _table(items: list[Item]) -> pa.Table:
    columns = {name: [getattr(item, name) for item in items] for name in _SCHEMA.names}
    return pa.table(columns, schema=_SCHEMA)


def _items(table: pa.Table) -> list[Item]:
    columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
    return [
        Item(id_, Kind(kind), path, first, second, column)
        for id_, kind, path, first, second, column in zip(*columns, strict=True)
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
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for item in _items(file.read_row_group(group)):
                if _hash(item.id) not in suspects:
                    continue
                if item.id in seen:
                    found.append(f"{item.id} ({seen[item.id]} and {item.path})")
                seen[item.id] = item.path
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        said = "; ".join(found[:_SHOWN])
        raise InvalidArgumentError(f"{len(found)} ids stand for two pictures each: {said}{more}")
