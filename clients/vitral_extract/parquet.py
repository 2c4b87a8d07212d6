"""Pictures in Parquet files: a column of bytes, Hugging Face's image struct, or a column of paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vitral.errors import InvalidArgumentError
from vitral_extract.item import UNKNOWN, Item, Kind, printable

_IDS = ("id", "key", "__key__")
_PATHS = ("path", "image_path", "file", "file_path", "file_name", "filename")
_STEP = 16_384  # rows of ids and paths in memory


@dataclass(frozen=True)
class Columns:
    """Columns of Parquet sources; None: found by their names and types.

    Attributes:
        image: bytes of a picture, or the path of one, relative to the Parquet file.
        id: names of the pictures; without it `FILE#ROW`.
    """

    image: str | None = None
    id: str | None = None


def items(path: Path, columns: Columns) -> Iterator[Item]:
    """Every row in order; its id is that of the id column, else `FILE#ROW`.

    Raises:
        InvalidArgumentError: the file cannot be read, has no such column, or a row without id.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            image, by_path = _image_column(schema, columns, path)
            name = _id_column(schema, columns, path)
            wanted = list(dict.fromkeys(column for column in (name, image if by_path else None) if column))
            size = path.stat().st_size
            for row, place, cells in _cells(file, wanted):
                key = _key(path, row, cells, name)
                if by_path:
                    yield _pointed(key, path, cells[image])
                else:
                    yield Item(key, Kind.ROW, str(path), size, *place, image)
    except pa.ArrowException as error:
        raise InvalidArgumentError(f"{path} cannot be read as Parquet: {error}") from None


def _cells(file: Any, wanted: list[str]) -> Iterator[tuple[int, tuple[int, int], dict[str, Any]]]:
    """Number of a row, its group and its place in it, and its cells of the wanted columns."""
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        index = 0
        if not wanted:  # batches without columns have no rows
            for index in range(count):
                yield first + index, (group, index), {}
        else:
            for batch in file.iter_batches(_STEP, row_groups=[group], columns=wanted):
                for cells in batch.to_pylist():
                    yield first + index, (group, index), cells
                    index += 1
        first += count


def _key(path: Path, row: int, cells: dict[str, Any], name: str | None) -> str:
    if name is None:
        return printable(f"{path.name}#{row}")
    if cells[name] is None:
        raise InvalidArgumentError(f"row {row} of {path} has no {name}")
    return str(cells[name])


def _pointed(key: str, table: Path, name: str | None) -> Item:
    """The file that a row names; one that is missing fails when its turn comes."""
    path = table.parent / (name or "")
    return Item(key, Kind.FILE, str(path), path.stat().st_size if path.is_file() else UNKNOWN)


def _image_column(schema: pa.Schema, columns: Columns, path: Path) -> tuple[str, bool]:
    """The column of pictures, and whether it holds paths."""
    if columns.image is not None:
        kind = _field(schema, columns.image, path).type
        if (found := _bytes_in(columns.image, kind)) is not None:
            return found, False
        if not _is_text(kind):
            raise InvalidArgumentError(f"column {columns.image} of {path} is {kind}: neither bytes nor paths")
        return columns.image, True
    held = [found for name in schema.names if (found := _bytes_in(name, schema.field(name).type))]
    if len(held) > 1:
        raise InvalidArgumentError(f"{path} has several columns of bytes: name one of {', '.join(held)}")
    if held:
        return held[0], False
    for name in _PATHS:
        if name in schema.names and _is_text(schema.field(name).type):
            return name, True
    raise InvalidArgumentError(f"{path} has no column of bytes or paths; it has {', '.join(schema.names)}")


def _bytes_in(name: str, kind: pa.DataType) -> str | None:
    """The column, or the field of it, that holds bytes."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return name
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{name}.bytes"  # as Hugging Face's datasets write images
    return None


def _id_column(schema: pa.Schema, columns: Columns, path: Path) -> str | None:
    name = columns.id or next((name for name in _IDS if name in schema.names), None)
    if name is None:
        return None
    kind = _field(schema, name, path).type
    if not _is_text(kind) and not pa.types.is_integer(kind):
        raise InvalidArgumentError(f"column {name} of {path} is {kind}: ids are text or whole numbers")
    return name


def _field(schema: pa.Schema, name: str, path: Path) -> pa.Field:
    if name not in schema.names:
        raise InvalidArgumentError(f"{path} has no column {name}; it has {', '.join(schema.names)}")
    return schema.field(name)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
