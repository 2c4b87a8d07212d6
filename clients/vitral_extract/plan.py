"""What is still to be done: the shards of a run, cut from the listing in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vitral.errors import InvalidArgumentError
from vitral_extract.layout import Column
from vitral_extract.settings import Settings
from vitral_extract.shard import Committed

SHARD_BYTES = 64 * 1024 * 1024
"""Size of a shard where nothing else is said: two are in memory at a time."""

MOST_BYTES = 1024 * 1024 * 1024
"""Largest shard."""

_MOST_ROWS = 16_384
_BLOCK = 4096  # the least that a file takes


@dataclass(frozen=True)
class Part:
    """Pictures of one shard that is still to be made.

    Attributes:
        number: of the shard.
        numbers: of its pictures in the listing.
        round: 0, or which time it is that failed pictures are tried again.
    """

    number: int
    numbers: Sequence[int]
    round: int = 0


def shard_rows(columns: Sequence[Column], dtype: str) -> int:
    """Pictures of a shard of about `SHARD_BYTES`."""
    row = sum(column.bytes_a_row(dtype) for column in columns)
    return max(1, min(_MOST_ROWS, SHARD_BYTES // row))


def bytes_needed(columns: Sequence[Column], dtype: str, count: int, rows: int) -> int:
    """Bytes that this many pictures will take on disk in shards of so many rows.

    Their arrays; a hundred a picture for listing and index; a block more for each file.
    """
    arrays = count * sum(column.bytes_a_row(dtype) for column in columns)
    return arrays + count * 100 + -(-count // rows) * _BLOCK * (len(columns) + 1)


def parts(settings: Settings, done: Mapping[int, Committed]) -> Iterator[Part]:
    """The shards that are not finished, in order."""
    for number, start in enumerate(range(0, settings.count, settings.shard_rows)):
        if number not in done:
            yield Part(number, range(start, min(start + settings.shard_rows, settings.count)))


def retries(settings: Settings, done: Mapping[int, Committed]) -> Iterator[Part]:
    """New shards of the pictures that failed; what is left of the last round of them, where it broke off."""
    last = max((one.round for one in done.values()), default=0)
    left = [part for part in _round(settings, done, last) if part.number not in done] if last else []
    yield from left or _round(settings, done, last + 1)


def _round(settings: Settings, done: Mapping[int, Committed], number: int) -> Iterator[Part]:
    """All shards of a round: they follow from the rounds before, so that none needs to be written down."""
    before = {key: one for key, one in done.items() if one.round < number}
    failed = sorted(failure_numbers(before))
    first = max(before, default=-1) + 1
    for place, start in enumerate(range(0, len(failed), settings.shard_rows)):
        yield Part(first + place, failed[start : start + settings.shard_rows], number)


def demand_size(columns: Sequence[Column], dtype: str, rows: int) -> None:
    """Refuses shards that memory might not hold twice.

    Raises:
        InvalidArgumentError: with the numbers.
    """
    size = rows * sum(column.bytes_a_row(dtype) for column in columns)
    if size > MOST_BYTES and rows > 1:
        raise InvalidArgumentError(
            f"{rows} rows make a shard of {size} bytes, over {MOST_BYTES}: two are in memory at a time"
        )


def failure_numbers(done: Mapping[int, Committed]) -> set[int]:
    """Pictures that have no row in any finished shard; a later shard may have made good for an earlier."""
    failed: set[int] = set()
    for number in sorted(done):
        one = done[number]
        failed -= set(one.retried)
        failed |= {failure.number for failure in one.failures}
    return failed


def complete(settings: Settings, done: Mapping[int, Committed]) -> bool:
    """Whether every shard of the listing is finished."""
    wanted = -(-settings.count // settings.shard_rows)
    return all(number in done for number in range(wanted))
