"""Cells of Parquet files, read forwards: of a row group, however large, only a few rows are in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

_STEP = 16  # rows read at a time
_KEPT = 16  # steps in memory: workers are not further apart
_OPEN = 2  # row groups: workers may stand on both sides of a border

_lock = threading.Lock()
_readers: OrderedDict[tuple[str, int, str], _Reader] = OrderedDict()


def value(path: str, group: int, column: str, row: int) -> bytes | None:
    """One cell; None where there is no value. Any thread may ask; rows far behind the last are slow."""
    key = (path, group, column)
    with _lock:
        reader = _readers.pop(key, None)
        if reader is None or row < reader.start:
            reader = _Reader(path, group, column)
        _readers[key] = reader
        while len(_readers) > _OPEN:
            _readers.popitem(last=False)[1].close()
        found: Any = reader.cell(row)
    for field in column.split(".")[1:]:
        found = None if found is None else found[field]
    return found if isinstance(found, bytes) else None


class _Reader:
    """A column of a row group; `start` is the first row that is still in memory."""

    def __init__(self, path: str, group: int, column: str) -> None:
        self._file = pq.ParquetFile(path, memory_map=True)
        self._steps: Iterator[Any] = self._file.iter_batches(_STEP, row_groups=[group], columns=[column])
        self._held: deque[Any] = deque()
        self.start = 0
        self._stop = 0

    def cell(self, row: int) -> Any:
        while row >= self._stop:
            batch = next(self._steps, None)
            if batch is None:
                raise ValueError(f"its row group ends before row {row}")
            column = batch.column(0)
            self._held.append(column)
            self._stop += len(column)
            if len(self._held) > _KEPT:
                self.start += len(self._held.popleft())
        row -= self.start
        for column in self._held:
            if row < len(column):
                return column[row].as_py()
            row -= len(column)
        raise IndexError(row)

    def close(self) -> None:
        self._file.close()
