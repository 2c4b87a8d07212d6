"""One step of a graph, written the same way whether it was read from torch or from ONNX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from vitral.tensors import Array

BATCHES = (1009, 1013)
"""Two sizes of a batch at which extents are read: primes, which no extent is a multiple of by accident."""


@dataclass(frozen=True)
class Times:
    """An extent that is a multiple of the batch."""

    factor: int

    def __repr__(self) -> str:
        """As it stands in messages."""
        return f"{self.factor}B"


Extent: TypeAlias = int | Times | None
"""None for the batch itself."""

Shape: TypeAlias = tuple[Extent, ...]
"""Extents of a tensor."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor that does not depend on the input."""

    name: str
    array: Array


Operand: TypeAlias = str | Weight
"""A weight, `input`, or `#3` for the result of the fourth step."""

INPUT = "input"


@dataclass(frozen=True, eq=False)
class Operation:
    """One step.

    Attributes:
        kind: ONNX operator.
        attributes: everything but its tensors; a shape's dynamic extents are None.
        operands: its tensors, in ONNX order.
        name: where it came from, for messages.
        shape: extents of its result.
    """

    kind: str
    attributes: Mapping[str, Any]
    operands: tuple[Operand, ...]
    name: str
    shape: Shape


@dataclass(frozen=True, eq=False)
class Program:
    """The steps of a graph in order, and the operand behind each output.

    Attributes:
        input: extents of the input.
    """

    steps: tuple[Operation, ...]
    outputs: tuple[Operand, ...]
    input: Shape = ()

    def weights(self) -> tuple[Weight, ...]:
        """Every tensor that a step takes and that does not depend on the input."""
        return tuple(item for step in self.steps for item in step.operands if isinstance(item, Weight))


def extent_of(first: int, second: int) -> Extent:
    """The extent that is `first` and `second` at the two sizes of `BATCHES`.

    Raises:
        ValueError: it is no multiple of the batch.
    """
    if first == second:
        return first
    factor = (second - first) // (BATCHES[1] - BATCHES[0])
    if factor < 1 or (first, second) != (factor * BATCHES[0], factor * BATCHES[1]):
        raise ValueError(
            f"an extent is {first} for {BATCHES[0]} images and {second} for {BATCHES[1]}, no multiple of them"
        )
    return None if factor == 1 else Times(factor)


def of_one(shape: Shape) -> tuple[int, ...]:
    """The extents for a batch of one."""
    return tuple(1 if item is None else item.factor if isinstance(item, Times) else item for item in shape)


def elements(shape: Shape) -> tuple[int, int]:
    """The number of elements of a tensor for a batch of one, and the power of the batch it grows with."""
    return math.prod(of_one(shape)), sum(not isinstance(item, int) for item in shape)


def index_of(operand: str) -> int:
    """3 of `#3`."""
    return int(operand[1:])


def differences(found: Program, expected: Program) -> list[str]:
    """What `found` does otherwise than `expected`, one sentence each; empty when they are the same."""
    kinds, wanted = ([step.kind for step in program.steps] for program in (found, expected))
    if kinds != wanted:
        return [_unlike(kinds, wanted)]
    problems = []
    for mine, its in zip(found.steps, expected.steps, strict=True):
        problems += [f"{mine.name}: {problem}" for problem in _step_differences(mine, its)]
    if found.outputs != expected.outputs:
        problems.append(f"outputs come from {found.outputs}, the module's from {expected.outputs}")
    return problems


def _unlike(kinds: list[str], wanted: list[str]) -> str:
    """Two lists of operators that differ: whole where they are short, else from where they part."""
    if max(len(kinds), len(wanted)) <= _WHOLE:
        return f"steps are {', '.join(kinds)}; the module's are {', '.join(wanted)}"
    pairs = zip(kinds, wanted, strict=False)
    at = next((i for i, (mine, its) in enumerate(pairs) if mine != its), min(len(kinds), len(wanted)))
    mine, its = (", ".join(items[at : at + _AROUND]) or "no more" for items in (kinds, wanted))
    return f"step {at + 1} on is {mine} ({len(kinds)} steps); the module's is {its} ({len(wanted)} steps)"


_WHOLE, _AROUND = 12, 4  # operators that a message names


def _step_differences(found: Operation, expected: Operation) -> list[str]:
    problems = [
        f"{key} is {found.attributes.get(key)}, the module's is {expected.attributes.get(key)}"
        for key in sorted({*found.attributes, *expected.attributes})
        if found.attributes.get(key) != expected.attributes.get(key)
    ]
    if found.shape != expected.shape:
        problems.append(f"result is {found.shape}, the module's is {expected.shape}")
    if len(found.operands) != len(expected.operands):
        return [*problems, f"has {len(found.operands)} operands, the module's has {len(expected.operands)}"]
    for mine, its in zip(found.operands, expected.operands, strict=True):
        problems += _operand_differences(mine, its)
    return problems


def _operand_differences(found: Operand, expected: Operand) -> list[str]:
    if isinstance(found, str) or isinstance(expected, str):
        same = found == expected
        return [] if same else [f"takes {_said(found)}, the module's takes {_said(expected)}"]
    mine, its = found.array, expected.array
    if mine.dtype != its.dtype or mine.shape != its.shape:
        return [f"{found.name} is {mine.dtype} {mine.shape}, {expected.name} is {its.dtype} {its.shape}"]
    bits = f"u{mine.dtype.itemsize}"  # as bits: NaN equals itself, 0.0 is not -0.0
    unequal = np.ascontiguousarray(mine).view(bits) != np.ascontiguousarray(its).view(bits)
    count = int(np.count_nonzero(unequal))
    if not count:
        return []
    at = tuple(int(i) for i in np.argwhere(unequal.reshape(mine.shape or (1,)))[0])[: mine.ndim]
    return [
        f"{found.name} differs from {expected.name} in {count} of {mine.size} elements, first at {at}: "
        f"{mine[at]}, the module's is {its[at]}"
    ]


def _said(operand: Operand) -> str:
    return operand if isinstance(operand, str) else f"weight {operand.name}"
