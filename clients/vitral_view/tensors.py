"""The tensors of `embedding.safetensors`, from which the pictures are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitral.errors import ArtifactError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb


@dataclass(frozen=True, eq=False)
class EmbeddingTensors:
    """Weights of an embedding module.

    Attributes:
        weight: the projection, float32 (D, C, P, P).
        bias: its bias (D,); zeros where there is none.
        cls_token: the CLS token (D,), where there is one.
        positions: position embedding of each patch (N, D), without the one of CLS, where there are any.
        table_rows: rows of the table of position embeddings, 0 where there is none.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    cls_token: NDArray[np.float32] | None
    positions: NDArray[np.float32] | None
    table_rows: int


def from_mapping(tensors: Mapping[str, Array], architecture: pb.Architecture) -> EmbeddingTensors:
    """The tensors under their names, checked against the sizes of the model.

    A table of positions with other rows than one for each patch, and one for CLS, is left out: which of them
    are the patches' is not known.

    Raises:
        ArtifactError: there is no projection, or a shape is not the one that follows from the sizes.
    """
    dim, grid, patch = architecture.embed_dim, architecture.grid, architecture.patch_size
    count = grid.height * grid.width
    needed = (dim, architecture.in_channels, patch.height, patch.width)
    weight = _tensor(tensors, "projection.weight", needed)
    if weight is None:
        raise ArtifactError("embedding.safetensors has no projection.weight: there is nothing to draw")
    bias = _tensor(tensors, "projection.bias", (dim,))
    cls_token = _tensor(tensors, "cls_token", (dim,))
    table = tensors.get("position_embedding")
    rows = 0 if table is None else len(table)
    prefix = int(cls_token is not None and rows == count + 1)
    positions = _tensor(tensors, "position_embedding", (rows, dim)) if rows == prefix + count else None
    return EmbeddingTensors(
        weight=weight,
        bias=np.zeros(dim, np.float32) if bias is None else bias,
        cls_token=cls_token,
        positions=None if positions is None else positions[prefix:],
        table_rows=rows,
    )


def _tensor(tensors: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    if name not in tensors:
        return None
    array = tensors[name]
    if array.shape != shape:
        found, needed = (" x ".join(map(str, sizes)) for sizes in (array.shape, shape))
        raise ArtifactError(f"{name} of embedding.safetensors is {found}, the model's sizes need {needed}")
    return array.astype(np.float32, copy=False)
