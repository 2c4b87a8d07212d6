"""Operators that are written with plainer ones, for torch's exporter and for the structural net alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def plainer() -> dict[Any, Callable[..., Any]]:
    """Operator to what it is written as."""
    aten = torch.ops.aten
    return {aten.rms_norm.default: _rms_norm, aten.type_as.default: _type_as}


def _rms_norm(
    rows: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,  # the operator's own signature
) -> Tensor:
    """X w / sqrt(mean(x^2) + eps) over the last axes."""
    axes = tuple(range(-len(normalized_shape), 0))
    epsilon = torch.finfo(rows.dtype).eps if eps is None else eps
    normed = rows * torch.rsqrt((rows * rows).mean(axes, keepdim=True) + epsilon)
    return normed if weight is None else normed * weight


def _type_as(rows: Tensor, other: Tensor) -> Any:
    """The same values where the type is the same already; any other stays as it is."""
    return rows.clone() if rows.dtype == other.dtype else NotImplemented
