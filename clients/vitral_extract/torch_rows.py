"""A data set as `torch.utils.data.Dataset`. Imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vitral_extract.reopened import Reopened


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Position to `{"id": ..., NAME: tensor, ...}`. Worker processes each open the files themselves."""

    def __init__(self, data: Reopened, length: int) -> None:
        self._data = data
        self._length = length

    def __len__(self) -> int:
        """Number of pictures that have a row."""
        return self._length

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Id and tensors of the picture at a position."""
        data = self._data()
        arrays = data[position]  # read-only views of files; tensors may be written to
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        return {"id": data.id(position), **tensors}
