"""What a SOURCE argument stands for: files, folders, globs, lists, tar shards, Parquet files."""

from __future__ import annotations

import glob
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral_engine.raw_scale import CONTRACT as RAW
from vitral_extract import parquet, tar
from vitral_extract.item import UNKNOWN, Item, Kind, printable
from vitral_extract.parquet import Columns

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Endings of the pictures that are taken from folders and tar shards."""

RAW_SUFFIXES = (".npy", ".png", ".tif", ".tiff")
"""The same for models of contract raw-scale, whose pictures are numbers of any channels."""

STDIN = "-"
"""The source that is a list on standard input."""

_LISTS = (".txt", ".lst", ".list")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def suffixes_of(spec: pb.ModelSpec) -> tuple[str, ...]:
    """Endings of the pictures that a model takes."""
    return RAW_SUFFIXES if spec.preprocessing.contract == RAW else SUFFIXES


def items(
    sources: Sequence[str], columns: Columns | None = None, *, suffixes: tuple[str, ...] = SUFFIXES
) -> Iterator[Item]:
    """Every picture of the sources, in their order; folders sorted, so that each listing is the same.

    Ids are paths below a folder, paths as given for files, globs and lists, `SHARD/MEMBER` for tars, and the
    id column, or `FILE#ROW`, for Parquet files.

    Args:
        sources: as they are named.
        columns: of Parquet files.
        suffixes: endings of what is taken from folders and tar shards.

    Raises:
        InvalidArgumentError: a source is nothing of these kinds, or a folder cannot be read.
    """
    if sources.count(STDIN) > 1:
        raise InvalidArgumentError("standard input can be one source only")
    for source in sources:
        yield from _of(source, columns or Columns(), suffixes)


def _of(source: str, columns: Columns, suffixes: tuple[str, ...]) -> Iterator[Item]:
    if source == STDIN:
        yield from _listed(sys.stdin.buffer)
    elif os.path.lexists(source):
        yield from _file(source, columns, suffixes)
    elif found := _RANGE.search(source):
        # WebDataset's shard-{000..999}.tar
        first, last = found.groups()
        for number in range(int(first), int(last) + 1):
            name = f"{source[: found.start()]}{number:0{len(first)}}{source[found.end() :]}"
            yield from _of(name, columns, suffixes)
    elif glob.has_magic(source):
        names = sorted(glob.glob(source, recursive=True))
        if not names:
            raise InvalidArgumentError(f"nothing matches {source}")
        for name in names:
            # `**` names what is in a folder besides the folder.
            if "**" not in source or not os.path.isdir(name):
                yield from _file(name, columns, suffixes)
    else:
        raise InvalidArgumentError(f"there is no file or folder {source}")


def _file(name: str, columns: Columns, suffixes: tuple[str, ...]) -> Iterator[Item]:
    path, lower = Path(name).absolute(), name.lower()
    if path.is_dir():
        yield from _folder(path, suffixes)
    elif lower.endswith(".tar"):
        yield from tar.items(path, suffixes)
    elif lower.endswith(_COMPRESSED):
        raise InvalidArgumentError(
            f"{name} is compressed: its members cannot be reached one by one; unpack it"
        )
    elif lower.endswith(".parquet"):
        yield from parquet.items(path, columns)
    elif lower.endswith(_LISTS):
        with path.open("rb") as lines:
            yield from _listed(lines)
    else:
        yield _named(name)


def _listed(lines: Iterable[bytes]) -> Iterator[Item]:
    """One path a line, relative to the working folder; empty lines are passed over."""
    for line in lines:
        name = os.fsdecode(line.rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf"))
        if name.strip():
            yield _named(name)


def _named(name: str) -> Item:
    path = Path(name)
    return Item(printable(path.as_posix()), Kind.FILE, str(path.absolute()), _size(name))


def _size(path: str) -> int:
    """What cannot be looked at, or is no regular file, fails when its turn comes."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return UNKNOWN
    return found.st_size if stat.S_ISREG(found.st_mode) else UNKNOWN


def _folder(root: Path, suffixes: tuple[str, ...]) -> Iterator[Item]:
    """Pictures below a folder in sorted order, one folder's names in memory at a time.

    Links to folders are followed, but not into a folder that is above them: what is there is listed already.
    """
    above = [_identity(root)]
    names = [iter(_names(root))]
    folders = [""]
    while names:
        name = next(names[-1], None)
        if name is None:
            names.pop(), folders.pop(), above.pop()
            continue
        below = f"{folders[-1]}{name}"
        path = root / below
        if path.is_dir():
            if (identity := _identity(path)) not in above:
                above.append(identity)
                names.append(iter(_names(path)))
                folders.append(f"{below}/")
        elif name.lower().endswith(suffixes):
            yield Item(printable(below), Kind.FILE, str(path), _size(str(path)))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise InvalidArgumentError(f"cannot list folder {folder}: {error.strerror}") from None


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
