"""The files of a shard, each readable by its own library without vitral."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from vitral.tensors import Array
from vitral_extract import commit

METADATA = b"vitral"
"""Key of a Parquet file's metadata: JSON of array name to `dtype` and `shape`."""


def _safetensors(folder: Path, stem: str, ids: Sequence[str], rows: Mapping[str, Array]) -> dict[str, str]:
    """`STEM.safetensors`: each array as (rows, ...). The ids stand in the index."""
    path = folder / f"{stem}.safetensors"
    data = save(dict(rows))
    commit.write(path, data)
    return {path.name: hashlib.sha256(data).hexdigest()}


def _npy(folder: Path, stem: str, ids: Sequence[str], rows: Mapping[str, Array]) -> dict[str, str]:
    """`STEM.ARRAY.npy` for each array, (rows, ...). The ids stand in the index."""
    files = {}
    for name, array in rows.items():
        path = folder / f"{stem}.{name}.npy"
        with commit.aside(path) as temporary, temporary.open("wb") as file:
            np.save(file, array)
        files[path.name] = commit.sha256(path)
    return files


def _parquet(folder: Path, stem: str, ids: Sequence[str], rows: Mapping[str, Array]) -> dict[str, str]:
    """`STEM.parquet`: `id`, and a column of bytes for each array; dtype and shape are in the metadata."""
    path = folder / f"{stem}.parquet"
    columns: dict[str, Any] = {"id": pa.array(ids, pa.string())}
    told = {}
    for name, array in rows.items():
        columns[name] = _bytes_column(array)
        told[name] = {"dtype": array.dtype.name, "shape": list(array.shape[1:])}
    table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(told).encode()})
    with commit.aside(path) as temporary:
        # Features do not compress, and dictionaries of them would only cost time.
        pq.write_table(table, temporary, compression="none", use_dictionary=False, write_statistics=False)
    return {path.name: commit.sha256(path)}


def _bytes_column(array: Array) -> pa.Array:
    """Rows as binary values over the array's own memory."""
    size = array[:1].nbytes if len(array) else 0
    offsets = np.arange(len(array) + 1, dtype=np.int64) * size
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(array))]
    return pa.Array.from_buffers(pa.large_binary(), len(array), buffers)


WRITERS: Mapping[str, Callable[[Path, str, Sequence[str], Mapping[str, Array]], dict[str, str]]] = (
    MappingProxyType({"safetensors": _safetensors, "parquet": _parquet, "npy": _npy})
)
"""Format to what writes a shard into a folder and returns its files with their sha256; the default first."""
