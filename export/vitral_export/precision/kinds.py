"""The precisions an artifact may have, in words and limits. Imports no library."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vitral.errors import InvalidArgumentError

FLOAT32, FLOAT16, STORAGE, INT8 = "float32", "float16", "float16-storage", "int8"

PRECISIONS: Mapping[str, str] = MappingProxyType(
    {
        FLOAT32: "weights and arithmetic in float32",
        FLOAT16: "weights and arithmetic in float16, for GPUs",
        STORAGE: "weights stored as float16, arithmetic in float32, for CPUs",
        INT8: "the encoder's products in int8, quantised as they are run, for CPUs",
    }
)
"""Every precision and what it is."""

OWN: Mapping[str, str] = MappingProxyType(
    {
        FLOAT32: "PyTorch float32",
        FLOAT16: "PyTorch float16",
        STORAGE: "PyTorch float32 with rounded weights",
        INT8: "PyTorch with the same int8",
    }
)
"""What a precision's error is measured by: the same loss in PyTorch, where three times it is the budget."""

CEILING = 0.25
"""Relative L2 error over which a precision below float32 is refused, whatever PyTorch's own is."""

HALF_MAX = 65504.0
"""Largest number of float16."""


def check(name: str) -> None:
    """Refuses what is no precision.

    Raises:
        InvalidArgumentError: with those there are.
    """
    if name not in PRECISIONS:
        raise InvalidArgumentError(f"unknown precision {name!r}; known are {', '.join(PRECISIONS)}")
