"""A program written anew, step by step."""

from __future__ import annotations

from typing import Protocol

from vitral_export.builder import Builder
from vitral_export.operations import INPUT, Operand, Operation, Program, Weight


class Rule(Protocol):
    """What becomes of one step."""

    def __call__(self, builder: Builder, step: Operation, operands: list[Operand]) -> Operand:
        """The operand for the step's result; `operands` are those of the new program."""


def rewritten(program: Program, rule: Rule, *, builder: Builder) -> list[Operand]:
    """Writes every step by the rule, and gives the new operands of the outputs."""
    new: dict[Operand, Operand] = {}
    for index, step in enumerate(program.steps):
        operands = [new.get(item, item) if isinstance(item, str) else item for item in step.operands]
        new[f"#{index}"] = rule(builder, step, operands)
    return [new.get(item, item) for item in program.outputs]


def copied(builder: Builder, step: Operation, operands: list[Operand]) -> Operand:
    """The step as it is, on other operands."""
    return builder.add(step.kind, operands, name=step.name, shape=step.shape, attributes=step.attributes)


def cast(builder: Builder, operand: Operand, to: int, name: str) -> Operand:
    """A cast to another element type, a number of onnx's TensorProto."""
    return builder.add("Cast", [operand], name=name, shape=builder.shape_of(operand), attributes={"to": to})


def moving(program: Program) -> set[Operand]:
    """What depends on values of the input: the input, and the results of steps that take any of it."""
    found: set[Operand] = {INPUT}
    for index, step in enumerate(program.steps):
        if any(item in found for item in step.operands if not isinstance(item, Weight)):
            found.add(f"#{index}")
    return found
