"""Builds a program in one normal form, so that two writings of the same steps compare equal.

Transposes that follow each other become one, reshapes the last of them; what changes nothing is left out;
what is computed twice is computed once; and the steps stand in the order in which the outputs need them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from vitral_export.operations import INPUT, Operand, Operation, Program, Shape, Weight, elements, index_of


class Builder:
    """Takes one step after the other.

    Args:
        input_shape: extents of the input, None for the batch.
    """

    def __init__(self, input_shape: Shape) -> None:
        self._input_shape = input_shape
        self._steps: list[Operation] = []
        self._places: dict[Hashable, list[int]] = {}

    def shape_of(self, operand: Operand) -> Shape:
        """Extents of an operand."""
        if isinstance(operand, Weight):
            return operand.array.shape
        return self._input_shape if operand == INPUT else self._steps[index_of(operand)].shape

    def add(
        self,
        kind: str,
        operands: Sequence[Operand],
        *,
        name: str,
        shape: Shape,
        attributes: Mapping[str, Any] | None = None,
    ) -> Operand:
        """The operand for the result of a step, which is an earlier one where the step changes nothing.

        Raises:
            ValueError: a reshape would not keep every element, for every batch.
        """
        step = Operation(kind, attributes or {}, tuple(operands), name, shape)
        if kind == "Transpose":
            step = self._after_transpose(step)
            if step.attributes["perm"] == tuple(range(len(shape))):
                return step.operands[0]
        if kind == "Mul" and any(map(_is_one, operands)):
            return next((item for item in operands if not _is_one(item)), operands[0])
        if kind == "Concat":
            step = self._without_empty(step)
            if len(step.operands) == 1:
                return step.operands[0]
        if kind == "Reshape":
            self._demand_elements(step)  # of each one: the next may be all that is left of it
            step = self._after_reshape(step)
        if kind in ("Reshape", "Expand", "Resize") and self.shape_of(step.operands[0]) == shape:
            return step.operands[0]
        return f"#{self._place(step)}"

    def step(self, operand: Operand, kind: str) -> Operation | None:
        """The step whose result an operand is, where it is of this kind."""
        if isinstance(operand, Weight) or operand == INPUT:
            return None
        step = self._steps[index_of(operand)]
        return step if step.kind == kind else None

    def part(self, source: Operand, *, axis: int, start: int, end: int, name: str) -> Operand:
        """The slice from `start` to `end` along one axis; the source itself where that is all of it.

        Raises:
            ValueError: the axis is the batch.
        """
        size = self.shape_of(source)[axis]
        if not isinstance(size, int):
            raise ValueError(f"{name} cuts the batch, for which there is no rule")
        if (start, end) == (0, size):
            return source
        extents = list(self.shape_of(source))
        extents[axis] = end - start
        attributes = {"axis": axis, "start": start, "end": end, "step": 1}
        return self.add("Slice", [source], name=name, shape=tuple(extents), attributes=attributes)

    def linear(
        self, rows: Operand, weight: Weight, bias: Weight | None, *, name: str, shape: Shape
    ) -> Operand:
        """X W^T + b, as a product and a sum; `weight` (out, in)."""
        turned = Weight(weight.name, weight.array.T)
        product = self.add("MatMul", [rows, turned], name=name, shape=shape)
        return product if bias is None else self.add("Add", [product, bias], name=name, shape=shape)

    def finish(self, outputs: Sequence[Operand]) -> Program:
        """The steps that the outputs need."""
        return needed(self._steps, outputs)

    def _place(self, step: Operation) -> int:
        """Where the step stands: behind all others, or where an equal one stands already."""
        alike = (step.kind, tuple(sorted(step.attributes.items())), tuple(map(_outline, step.operands)))
        places = self._places.setdefault((*alike, step.shape), [])
        for place in places:
            if all(map(_equal, self._steps[place].operands, step.operands)):
                return place
        self._steps.append(step)
        places.append(len(self._steps) - 1)
        return places[-1]

    def _after_transpose(self, step: Operation) -> Operation:
        earlier = self.step(step.operands[0], "Transpose")
        if earlier is None:
            return step
        perm = tuple(earlier.attributes["perm"][axis] for axis in step.attributes["perm"])
        return Operation("Transpose", {"perm": perm}, earlier.operands, step.name, step.shape)

    def _without_empty(self, step: Operation) -> Operation:
        """A concatenation without operands of no extent, register tokens that a model has none of, say."""
        axis = step.attributes["axis"]
        full = tuple(item for item in step.operands if self.shape_of(item)[axis] != 0)
        return Operation(step.kind, step.attributes, full or step.operands, step.name, step.shape)

    def _demand_elements(self, step: Operation) -> None:
        source = self.shape_of(step.operands[0])
        if elements(source) != elements(step.shape):
            raise ValueError(f"{step.name} reshapes {source} to {step.shape}")

    def _after_reshape(self, step: Operation) -> Operation:
        earlier = self.step(step.operands[0], "Reshape")
        source = step.operands if earlier is None else earlier.operands
        return Operation("Reshape", {"shape": step.shape}, source, step.name, step.shape)


def _is_one(operand: Operand) -> bool:
    """Whether a product with it is the other operand, bit for bit: BEiT's layer scale where it has none."""
    held = operand.array if isinstance(operand, Weight) else np.zeros(0)
    return held.shape == () and bool(held == 1)


def needed(steps: Sequence[Operation], outputs: Sequence[Operand]) -> Program:
    """Those of the steps that the outputs need, in the order in which they need them."""
    order: list[int] = []
    for output in outputs:
        _visit(steps, output, order)
    new = {old: f"#{place}" for place, old in enumerate(order)}
    kept = (steps[old] for old in order)
    return Program(
        tuple(
            Operation(
                step.kind,
                step.attributes,
                tuple(_renamed(item, new) for item in step.operands),
                step.name,
                step.shape,
            )
            for step in kept
        ),
        tuple(_renamed(item, new) for item in outputs),
    )


def _visit(steps: Sequence[Operation], output: Operand, order: list[int]) -> None:
    """Appends what an output needs, each step behind its operands; without recursion, chains are long."""
    done, stack = set(order), [(output, False)]
    while stack:
        operand, ready = stack.pop()
        if isinstance(operand, Weight) or operand == INPUT or index_of(operand) in done:
            continue
        if ready:
            done.add(index_of(operand))
            order.append(index_of(operand))
            continue
        stack.append((operand, True))
        stack += [(item, False) for item in reversed(steps[index_of(operand)].operands)]


def _outline(operand: Operand) -> Hashable:
    return operand if isinstance(operand, str) else (operand.array.dtype.str, operand.array.shape)


def _equal(one: Operand, other: Operand) -> bool:
    """Whether operands of one outline are the same, weights bit for bit: an exporter merges equal ones."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return one.array is other.array or one.array.tobytes() == other.array.tobytes()


def _renamed(operand: Operand, new: Mapping[int, str]) -> Operand:
    if isinstance(operand, Weight) or operand == INPUT:
        return operand
    return new[index_of(operand)]
