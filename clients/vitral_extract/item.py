"""One picture of a source: its stable name, and where its bytes are."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import pyarrow.parquet as pq

from vitral.errors import ImageError


class Kind(IntEnum):
    """How the bytes of an item are reached."""

    FILE = 0
    SLICE = 1
    ROW = 2


@dataclass(frozen=True)
class Item:
    """A picture that is still to be read.

    Attributes:
        id: its name, the same at every listing of the same source.
        kind: a whole file, a slice of one (a member of a tar), or a row of a Parquet file.
        path: the file.
        first: offset in bytes of a slice, row group of a row.
        second: bytes of a slice or a whole file, row within its group.
        column: column of a row; `a.b` for a field of a struct.
    """

    id: str
    kind: Kind
    path: str
    first: int = 0
    second: int = 0
    column: str = ""

    def read(self) -> bytes:
        """The bytes of the picture.

        Raises:
            ImageError: cause `unreadable`.
        """
        try:
            if self.kind is Kind.ROW:
                return self._row()
            with open(self.path, "rb") as file:
                if self.kind is Kind.FILE:
                    return file.read()
                file.seek(self.first)
                data = file.read(self.second)
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ImageError(f"cannot read {self.path}: {said}", cause="unreadable") from None
        if len(data) != self.second:
            message = f"{self.path} ends {self.second - len(data)} bytes before {self.id} does"
            raise ImageError(message, cause="unreadable")
        return data

    def _row(self) -> bytes:
        value = _group(self.path, self.first, self.column, threading.get_ident())[self.second]
        if not isinstance(value, bytes):
            said = f"row {self.second} of row group {self.first}"
            raise ImageError(f"{self.path}, {said}: there is no picture", cause="unreadable")
        return value


@lru_cache(maxsize=32)
def _group(path: str, group: int, column: str, _thread: int) -> list[bytes | None]:
    """One column of a row group; each thread keeps the one it is at, for rows are read in order."""
    with pq.ParquetFile(path) as file:
        table = file.read_row_group(group, columns=[column])
    values = table.column(0).combine_chunks()
    for field in column.split(".")[1:]:
        values = values.field(field)
    return list(values.to_pylist())
