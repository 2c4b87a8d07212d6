"""One shard: the arrays of its pictures while they are filled, and its files once it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitral.errors import ArtifactError, ImageError
from vitral.tensors import Array
from vitral_extract import commit
from vitral_extract.item import Item, printable

COMMITS = "commits"
"""Folder of one file for each finished shard: what is in it is there, what is not is not."""

DATA = "data"
"""Folder of the arrays."""

_STEM = re.compile(r"\d{6,}\.")
_STAGES = {"unreadable": "read", "not_finite": "run", "overflow": "cast"}


@dataclass(frozen=True)
class Failure:
    """A picture that gave no row.

    Attributes:
        number: its place in the listing.
        id: its name.
        stage: `read`, `decode`, `run` or `cast`.
        reason: one word, as the server's errors have it.
        message: a sentence with the numbers.
    """

    number: int
    id: str
    stage: str
    reason: str
    message: str


@dataclass
class Shard:
    """Pictures that are written together.

    Attributes:
        number: place among the shards.
        numbers: of each picture in the listing.
        items: the pictures.
        rows: name to array (pictures, ...); row i is picture i.
        errors: of the pictures that failed, by their place here.
        left: batches that are not embedded yet.
    """

    number: int
    numbers: Sequence[int]
    items: Sequence[Item]
    rows: dict[str, Array]
    left: int
    errors: dict[int, Failure] = field(default_factory=dict)

    def good(self) -> tuple[list[str], dict[str, Array]]:
        """Ids and rows of the pictures that did not fail, moved together in place."""
        kept = [index for index in range(len(self.items)) if index not in self.errors]
        for array in self.rows.values():
            if self.errors:
                for place, index in enumerate(kept):
                    if place != index:
                        array[place] = array[index]
        rows = {name: array[: len(kept)] for name, array in self.rows.items()}
        return [self.items[index].id for index in kept], rows

    def fail(self, place: int, error: ImageError) -> None:
        """The picture at a place here failed.

        The error itself is not kept: it is larger than what is said of it.
        """
        stage = _STAGES.get(error.cause, "decode")
        number, name = self.numbers[place], self.items[place].id
        self.errors[place] = Failure(number, name, stage, error.cause, printable(str(error)))

    def failures(self) -> tuple[Failure, ...]:
        """One for each picture that failed, in order."""
        return tuple(failure for _, failure in sorted(self.errors.items()))


@dataclass(frozen=True)
class Committed:
    """A finished shard.

    Attributes:
        number: place among the shards.
        first: number of its first picture in the listing; -1 for one of pictures that failed before.
        count: pictures it was made from.
        rows: rows it holds.
        provider: what they were computed on.
        files: file in `data/` to its hash.
        failures: pictures without a row.
        retried: numbers of the pictures that an earlier shard failed at.
        round: 0, or which time it is that failed pictures were tried again.
    """

    number: int
    first: int
    count: int
    rows: int
    provider: str
    files: Mapping[str, str]
    failures: tuple[Failure, ...]
    retried: tuple[int, ...] = ()
    round: int = 0

    def write(self, folder: Path) -> None:
        """The last step of a shard: from here on it is done."""
        data: dict[str, Any] = {**vars(self), "failures": [vars(item) for item in self.failures]}
        commit.write(_record(folder, self.number), (json.dumps(data, ensure_ascii=False) + "\n").encode())


def committed(folder: Path) -> dict[int, Committed]:
    """Every finished shard of a run, by number; none where there is no run.

    Raises:
        ArtifactError: one of them cannot be read.
    """
    found: dict[int, Committed] = {}
    for path in sorted((folder / COMMITS).glob("[0-9]*.json")):
        try:
            data = json.loads(path.read_bytes())
            failures = tuple(Failure(**item) for item in data.pop("failures"))
            one = Committed(**{**data, "failures": failures, "retried": tuple(data["retried"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from None
        found[one.number] = one
    return found


def forget_lost(folder: Path) -> None:
    """Shards whose data somebody has removed are not done: what is gone is made again."""
    for number, one in committed(folder).items():
        if not all((folder / DATA / name).is_file() for name in one.files):
            _record(folder, number).unlink()


def sweep(folder: Path, done: Mapping[int, Committed]) -> None:
    """Removes what a run that died has left: unfinished files, and shards that no commit names."""
    known = {name for one in done.values() for name in one.files}
    for part in (folder, folder / COMMITS, folder / DATA):
        commit.sweep(part)
    for path in (folder / DATA).iterdir():
        if _STEM.match(path.name) and path.name not in known:
            path.unlink()


def _record(folder: Path, number: int) -> Path:
    return folder / COMMITS / f"{number:06}.json"
