"""A finished data set, read: by position or by id, one row at a time, from mapped files."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open

from vitral.errors import ArtifactError
from vitral.tensors import Array
from vitral_extract import settings
from vitral_extract.finish import ERRORS, INDEX, MANIFEST, manifest_of
from vitral_extract.formats import METADATA
from vitral_extract.shard import DATA, committed

_OPEN = 16  # shards

Row = Callable[[int, str], Array]
"""Row of an array of one shard, by its number and the array's name."""


def open(path: str | PathLike[str]) -> Dataset:
    """Opens the data set that `vitral extract --out PATH` has finished.

    Raises:
        ArtifactError: there is none, or it is not finished.
    """
    return Dataset(Path(path))


class Dataset:
    """Rows of arrays, each of one picture. Not for several threads at once; each opens its own.

    Attributes:
        folder: where it is.
        manifest: what was done with what, as in manifest.json.
        names: of the arrays.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = manifest_of(folder)
        if manifest is None:
            raise ArtifactError(f"{folder} holds no finished data set: {_state(folder)}")
        self.manifest: Mapping[str, Any] = manifest
        self.names = tuple(item["name"] for item in manifest["outputs"])
        self._index = _table(folder / INDEX)
        self._places: dict[str, int] | None = None
        self._open: OrderedDict[int, Row] = OrderedDict()

    def __len__(self) -> int:
        """Number of pictures that have a row."""
        return int(self._index.num_rows)

    def __getitem__(self, key: int | str) -> dict[str, Array]:
        """The arrays of a picture, by its position or its id.

        Raises:
            KeyError: no picture of this id has a row.
            IndexError: there is no such position.
        """
        position = self._position(key)
        shard, row = (self._index.column(name)[position].as_py() for name in ("shard", "row"))
        reader = self._reader(shard)
        return {name: reader(row, name) for name in self.names}

    def __contains__(self, key: object) -> bool:
        """Whether a picture of this id has a row."""
        return isinstance(key, str) and key in self._by_id()

    def __iter__(self) -> Iterator[tuple[str, dict[str, Array]]]:
        """Every id with its arrays, in the order of the source."""
        for position in range(len(self)):
            yield self.id(position), self[position]

    def id(self, position: int) -> str:
        """The id of the picture at a position."""
        return str(self._index.column("id")[position])

    @property
    def ids(self) -> list[str]:
        """Every id, in the order of the source."""
        found: list[str] = self._index.column("id").to_pylist()
        return found

    def column(self, name: str) -> np.ndarray[tuple[int], np.dtype[Any]]:
        """A column of the index: `number` in the source, `shard`, `row` in it; in the order of the source."""
        found: np.ndarray[tuple[int], np.dtype[Any]] = self._index.column(name).to_numpy()
        return found

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The pictures without a row: id, number, stage, reason, message."""
        found: list[dict[str, Any]] = _table(self.folder / ERRORS).to_pylist()
        return found

    def torch(self) -> Any:
        """The same as a map-style `torch.utils.data.Dataset`: position to id and tensors."""
        from vitral_extract import adapters

        return adapters.torch_dataset(self)

    def hugging_face(self) -> Any:
        """The same as a `datasets.Dataset`, whose rows have `id` and each array."""
        from vitral_extract import adapters

        return adapters.hugging_face_dataset(self)

    def _position(self, key: int | str) -> int:
        if isinstance(key, str):
            return self._by_id()[key]
        position = key + len(self) if key < 0 else key
        if not 0 <= position < len(self):
            raise IndexError(f"position {key} of {len(self)} pictures")
        return position

    def _by_id(self) -> dict[str, int]:
        if self._places is None:
            self._places = {name: place for place, name in enumerate(self.ids)}
        return self._places

    def _reader(self, shard: int) -> Row:
        if shard not in self._open:
            self._open[shard] = _READERS[self.manifest["format"]](self.folder / DATA, f"{shard:06}")
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]


def _table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None


def _state(folder: Path) -> str:
    if (begun := settings.read(folder)) is None:
        return f"there is no {MANIFEST}"
    shards = -(-begun.count // begun.shard_rows)
    done = sum(number < shards for number in committed(folder))
    return f"{done} of {shards} shards are done; the command that began it goes on"


def _safetensors(folder: Path, stem: str) -> Row:
    file: Any = safe_open(folder / f"{stem}.safetensors", framework="numpy")
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    return lambda row, name: np.asarray(slices[name][row])


def _npy(folder: Path, stem: str) -> Row:
    held: dict[str, Array] = {}

    def row_of(row: int, name: str) -> Array:
        if name not in held:
            held[name] = np.load(folder / f"{stem}.{name}.npy", mmap_mode="r")
        found: Array = held[name][row]
        return found

    return row_of


def _parquet(folder: Path, stem: str) -> Row:
    table: pa.Table = pq.read_table(folder / f"{stem}.parquet", memory_map=True)
    told = json.loads(table.schema.metadata[METADATA])

    def row_of(row: int, name: str) -> Array:
        data = table.column(name)[row].as_buffer()
        return np.frombuffer(data, told[name]["dtype"]).reshape(told[name]["shape"])

    return row_of


_READERS: Mapping[str, Callable[[Path, str], Row]] = MappingProxyType(
    {"safetensors": _safetensors, "parquet": _parquet, "npy": _npy}
)
