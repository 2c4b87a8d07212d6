"""A data set as other libraries' data sets. Each imports its library when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vitral_extract.dataset import Dataset
from vitral_extract.reopened import Reopened

if TYPE_CHECKING:
    import datasets
    import torch


def torch_dataset(data: Dataset) -> torch.utils.data.Dataset[dict[str, Any]]:
    """Position to `{"id": ..., NAME: tensor, ...}`; each worker process opens the files itself."""
    from vitral_extract.torch_rows import Rows

    return Rows(Reopened(data.folder), len(data))


def hugging_face_dataset(data: Dataset) -> datasets.Dataset:
    """A `datasets.Dataset` of ids, whose rows get their arrays when they are read: nothing is copied.

    `.map(dict)` writes the arrays into the library's own files.
    """
    import datasets

    table = pa.table({"id": data.ids, "position": pa.array(range(len(data)), pa.int64())})
    return datasets.Dataset(table).with_transform(_Arrays(Reopened(data.folder)))


class _Arrays:
    """Columns of a batch to the same with arrays."""

    def __init__(self, data: Reopened) -> None:
        self._data = data

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        data = self._data()
        if "position" not in batch:
            return batch
        rows = [data[position] for position in batch["position"]]
        return {"id": batch["id"], **{name: [row[name] for row in rows] for name in data.names}}
