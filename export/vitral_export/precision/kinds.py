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

RULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        FLOAT32: (),
        FLOAT16: (
            "these steps in float16: each of the weights rounded once, bit for bit, casts where they have "
            "to stand.",
        ),
        STORAGE: ("each matrix among these weights is rounded once to float16, bit for bit.",),
        INT8: (
            "each product behind the patch embedding is in int8: levels and scales of its matrix recomputed, "
            "bit for bit.",
        ),
    }
)
"""What the structural net compares beyond float32, in plain sentences."""

RESERVATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        FLOAT32: ("Float16 and int8: the artifact holds float32 weights only.",),
        FLOAT16: (
            "Float16 on other providers than {providers}: each computes it in its own way, and a CPU in "
            "float32 between casts. The engine replays the goldens where it runs, within the same budget.",
        ),
        STORAGE: (),
        INT8: (
            "Every batch that a picture may be in: what a product takes is quantised by the range of its "
            "whole batch, so that an embedding depends on the pictures beside it, within the budget.",
            "Processors without instructions for int8, where sums may saturate: the engine replays the "
            "goldens where it runs.",
        ),
    }
)
"""What the proof says nothing about, in plain sentences; `{providers}` are those it ran on."""

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
