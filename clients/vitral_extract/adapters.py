"""A data set as other libraries' data sets. Each imports its library when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vitral_extract.dataset import Dataset
from vitral_extract.dataset import open as open_dataset

if TYPE_CHECKING:
    import datasets
    import torch


def torch_dataset(data: Dataset) -> torch.utils.data.Dataset[dict[str, Any]]:
    """Position to `{"id": ..., NAME: tensor, ...}`; each worker process opens the files itself."""
    import torch

    class Rows(torch.utils.data.Dataset[dict[str, Any]]):
        def __init__(self) -> None:
            self._folder = data.folder
            self._length = len(data)
            self._data: Dataset | None = None

        def __len__(self) -> int:
            return self._length

        def __getitem__(self, position: int) -> dict[str, Any]:
            if self._data is None:
                self._data = open_dataset(self._folder)
            arrays = self._data[position]
            tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
            return {"id": self._data.id(position), **tensors}

    return Rows()


def hugging_face_dataset(data: Dataset) -> datasets.Dataset:
    """A `datasets.Dataset` in its own cache, made once by reading every row."""
    import datasets

    def rows() -> Iterator[dict[str, Any]]:
        for name, arrays in data:
            yield {"id": name, **arrays}

    told = {item["name"]: tuple(item["shape"]) for item in data.manifest["outputs"]}
    features: dict[str, Any] = {"id": datasets.Value("string")}
    features |= {name: _feature(shape, data.manifest["dtype"]) for name, shape in told.items()}
    return datasets.Dataset.from_generator(rows, features=datasets.Features(features))


def _feature(shape: tuple[int, ...], dtype: str) -> Any:
    import datasets

    many = {2: datasets.Array2D, 3: datasets.Array3D, 4: datasets.Array4D}
    if len(shape) in many:
        return many[len(shape)](shape, dtype)
    return datasets.List(datasets.Value(dtype), length=shape[0])
