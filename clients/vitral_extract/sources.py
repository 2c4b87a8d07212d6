"""What a SOURCE argument stands for: files, folders, globs, lists, tar shards, Parquet files."""

from __future__ import annotations

import glob
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vitral.errors import InvalidArgumentError
from vitral_extract.item import Item, Kind

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Endings of the pictures that are taken from folders and tar shards."""

_IDS = ("id", "key", "__key__")
_PATHS = ("path", "image_path", "file", "file_name", "filename")


@dataclass(frozen=True)
class Columns:
    """Columns of Parquet sources; None: found by their names and types.

    Attributes:
        image: bytes of a picture, or the path of one, relative to the Parquet file.
        id: names of the pictures; without it `FILE#ROW`.
    """

    image: str | None = None
    id: str | None = None


def items(sources: Sequence[str], columns: Columns | None = None) -> Iterator[Item]:
    """Every picture of the sources, in their order; folders sorted, so that each listing is the same.

    Ids are paths below a folder, paths as given for files, globs and lists, `SHARD/MEMBER` for tars, and the
    id column, or `FILE#ROW`, for Parquet files.

    Raises:
        InvalidArgumentError: a source is nothing of these kinds.
    """
    for source in sources:
        yield from _of(source, columns or Columns())


def _of(source: str, columns: Columns) -> Iterator[Item]:
    path = Path(source)
    if source == "-":
        yield from _listed(sys.stdin, columns)
    elif path.is_dir():
        yield from _folder(path)
    elif path.is_file():
        yield from _file(path, source, columns)
    elif glob.has_magic(source):
        found = sorted(glob.glob(source, recursive=True))
        if not found:
            raise InvalidArgumentError(f"nothing matches {source}")
        for name in found:
            if Path(name).is_file():
                yield from _file(Path(name), name, columns)
    else:
        raise InvalidArgumentError(f"there is no file or folder {source}")


def _file(path: Path, name: str, columns: Columns) -> Iterator[Item]:
    ending = path.suffix.lower()
    if ending == ".tar":
        yield from _tar(path)
    elif name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise InvalidArgumentError(
            f"{name} is compressed: its members cannot be reached one by one; unpack it"
        )
    elif ending == ".parquet":
        yield from _parquet(path, columns)
    elif ending in (".txt", ".lst", ".list"):
        with path.open(encoding="utf-8") as lines:
            yield from _listed(lines, columns)
    else:
        yield Item(Path(name).as_posix(), Kind.FILE, str(path), second=path.stat().st_size)


def _listed(lines: Iterable[str], columns: Columns) -> Iterator[Item]:
    """One path a line; empty lines are passed over. A file that is missing fails when its turn comes."""
    for line in lines:
        name = line.strip()
        if name:
            path = Path(name)
            size = path.stat().st_size if path.is_file() else -1
            yield Item(path.as_posix(), Kind.FILE, name, second=size)


def _folder(root: Path) -> Iterator[Item]:
    for path in _walk(root):
        name = path.relative_to(root).as_posix()
        yield Item(name, Kind.FILE, str(path), second=path.stat().st_size)


def _walk(folder: Path) -> Iterator[Path]:
    """Pictures below a folder in sorted order, one folder at a time; links to folders are not followed."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            yield path


def _tar(path: Path) -> Iterator[Item]:
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isfile() and member.name.lower().endswith(SUFFIXES):
                    yield Item(
                        f"{path.name}/{member.name}", Kind.SLICE, str(path), member.offset_data, member.size
                    )
                shard.members = []  # type: ignore[attr-defined]  # or it keeps every header
    except tarfile.TarError as error:
        raise InvalidArgumentError(f"{path} cannot be read as a tar shard: {error}") from None


def _parquet(path: Path, columns: Columns) -> Iterator[Item]:
    try:
        with pq.ParquetFile(path) as file:
            image, by_path = _image_column(file.schema_arrow, columns, path)
            name = _id_column(file.schema_arrow, columns, path)
            row = 0
            for group in range(file.num_row_groups):
                wanted = [column for column in (name, image if by_path else None) if column is not None]
                table = file.read_row_group(group, columns=wanted)
                ids = table.column(name).to_pylist() if name else None
                paths = table.column(image).to_pylist() if by_path else None
                for index in range(file.metadata.row_group(group).num_rows):
                    key = f"{path.name}#{row}" if ids is None else str(ids[index])
                    if paths is None:
                        yield Item(key, Kind.ROW, str(path), group, index, image)
                    else:
                        yield Item(key, Kind.FILE, str(path.parent / str(paths[index])), second=-1)
                    row += 1
    except pa.ArrowException as error:
        raise InvalidArgumentError(f"{path} cannot be read as Parquet: {error}") from None


def _image_column(schema: pa.Schema, columns: Columns, path: Path) -> tuple[str, bool]:
    """The column of pictures, and whether it holds paths."""
    names = [columns.image] if columns.image else list(schema.names)
    for name in names:
        if name not in schema.names:
            raise InvalidArgumentError(f"{path} has no column {name}; it has {', '.join(schema.names)}")
        kind = schema.field(name).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return name, False
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{name}.bytes", False  # as Hugging Face's datasets write images
        if pa.types.is_string(kind) and (columns.image or name in _PATHS):
            return name, True
    raise InvalidArgumentError(f"{path} has no column of bytes or paths; it has {', '.join(schema.names)}")


def _id_column(schema: pa.Schema, columns: Columns, path: Path) -> str | None:
    if columns.id and columns.id not in schema.names:
        raise InvalidArgumentError(f"{path} has no column {columns.id}; it has {', '.join(schema.names)}")
    return columns.id or next((name for name in _IDS if name in schema.names), None)
