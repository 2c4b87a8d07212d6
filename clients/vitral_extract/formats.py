"""The files of a shard, each readable by its own library without vitral."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitral.tensors import Array
from vitral_extract import commit

METADATA = b"vitral"
"""Key of a Parquet file's metadata: JSON of array name to `dtype` and `shape`."""

_GROUP_BYTES = 8 * 1024 * 1024  # a row group of a Parquet shard, the least that a reader can take
_TENSOR_DTYPES = {"float16": "F16", "float32": "F32"}  # as safetensors calls them


def _safetensors(folder: Path, stem: str, ids: Sequence[str], rows: Mapping[str, Array]) -> dict[str, str]:
    """`STEM.safetensors`: each array as (rows, ...). The ids stand in the index.

    Written here and not by the library, which needs the whole file in memory beside the arrays.
    """
    path = folder / f"{stem}.safetensors"
    header: dict[str, Any] = {}
    end = 0
    ordered = dict(
        sorted(rows.items(), key=lambda pair: (-pair[1].itemsize, pair[0]))
    )  # as the library has it
    for name, array in ordered.items():
        start, end = end, end + array.nbytes
        told = {"dtype": _TENSOR_DTYPES[array.dtype.name], "shape": list(array.shape)}
        header[name] = {**told, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    chunks: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text, *map(_bytes, ordered.values())]
    return {path.name: commit.stream(path, chunks)}


def _npy(folder: Path, stem: str, ids: Sequence[str], rows: Mapping[str, Array]) -> dict[str, str]:
    """`STEM.ARRAY.npy` for each array, (rows, ...). The ids stand in the index."""
    files = {}
    for name, array in rows.items():
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        path = folder / f"{stem}.{name}.npy"
        files[path.name] = commit.stream(path, [header.getvalue(), _bytes(array)])
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
    row = sum(array[:1].nbytes for array in rows.values())
    with commit.aside(path) as temporary:
        # Features do not compress, and dictionaries of them would only cost time.
        pq.write_table(
            table,
            temporary,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            row_group_size=max(1, _GROUP_BYTES // max(1, row)),
        )
    return {path.name: commit.hash_of(path)}


def _bytes(array: Array) -> memoryview:
    """The memory of an array; a view, so that nothing is copied."""
    return array.reshape(-1).view(np.uint8).data


def _bytes_column(array: Array) -> pa.Array:
    """Rows as binary values over the array's own memory."""
    size = array[:1].nbytes if len(array) else 0
    offsets = np.arange(len(array) + 1, dtype=np.int64) * size
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(_bytes(array))]
    return pa.Array.from_buffers(pa.large_binary(), len(array), buffers)


WRITERS: Mapping[str, Callable[[Path, str, Sequence[str], Mapping[str, Array]], dict[str, str]]] = (
    MappingProxyType({"safetensors": _safetensors, "parquet": _parquet, "npy": _npy})
)
"""Format to what writes a shard into a folder and returns its files with their hashes; the default first."""
