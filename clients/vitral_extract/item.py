"""One picture of a source: its stable name, and where its bytes are."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import IntEnum

import pyarrow as pa

from vitral.errors import ImageError
from vitral_extract import rows

UNKNOWN = -1
"""Size of what could not be looked at; it fails when its turn comes."""


class Kind(IntEnum):
    """How the bytes of an item are reached."""

    FILE = 0
    SLICE = 1
    ROW = 2


@dataclass(frozen=True, slots=True)
class Item:
    """A picture that is still to be read.

    Attributes:
        id: its name, the same at every listing of the same source.
        kind: a whole file, a slice of one (a member of a tar), or a row of a Parquet file.
        path: the file, absolute.
        size: bytes of the file or slice, of the whole Parquet file for a row; `UNKNOWN`.
        first: offset in bytes of a slice, row group of a row.
        second: row within its group.
        column: column of a row; `a.b` for a field of a struct.
    """

    id: str
    kind: Kind
    path: str
    size: int
    first: int = 0
    second: int = 0
    column: str = ""

    def read(self) -> bytes:
        """The bytes of the picture.

        Raises:
            ImageError: cause `unreadable`.
        """
        try:
            return self._row() if self.kind is Kind.ROW else self._bytes()
        except (OSError, ValueError, pa.ArrowException) as error:
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise self._unreadable(f"cannot read {self.path}: {said}") from None

    def _bytes(self) -> bytes:
        if self.kind is Kind.SLICE and self.size == UNKNOWN:
            raise self._unreadable(f"{self.id} is a link inside {self.path}, it has no bytes of its own")
        # Opening a pipe would wait for a writer that never comes.
        if not stat.S_ISREG(os.stat(self.path).st_mode):
            raise self._unreadable(f"{self.path} is no regular file")
        with open(self.path, "rb") as file:
            if self.kind is Kind.FILE:
                return file.read()
            file.seek(self.first)
            data = file.read(self.size)
        if len(data) != self.size:
            raise self._unreadable(f"{self.path} ends {self.size - len(data)} bytes before {self.id} does")
        return data

    def _row(self) -> bytes:
        value = rows.value(self.path, self.first, self.column, self.second)
        if value is None:
            said = f"row {self.second} of row group {self.first}"
            raise self._unreadable(f"{self.path}, {said}: there is no picture")
        return value

    @staticmethod
    def _unreadable(message: str) -> ImageError:
        return ImageError(printable(message), cause="unreadable")


def printable(name: str) -> str:
    """A name as valid Unicode: bytes of a file name that are none are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
