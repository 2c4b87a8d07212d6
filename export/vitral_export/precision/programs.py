"""The steps that a graph of some precision has to have, from those of float32: the rule of each, once more.

Written over the normal form, apart from the code that writes the graph: the structural net compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import onnx

from vitral.tensors import Array
from vitral_export.builder import Builder
from vitral_export.operations import INPUT, Operand, Operation, Program, Shape, Weight
from vitral_export.precision.half_graph import CENTRE_NAME, SCALE_NAME, WIDE
from vitral_export.precision.kinds import FLOAT16, FLOAT32, INT8, STORAGE
from vitral_export.precision.rewriting import cast, copied, moving, rewritten
from vitral_export.precision.rounding import PIXEL_SCALE, half, is_matrix, quantised

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def expected(program: Program, precision: str, *, uint8: bool) -> Program:
    """The steps in this precision.

    Args:
        program: in float32.
        precision: one of `PRECISIONS`.
        uint8: whether the input is pixels, which are cast already.

    Raises:
        ProofError: a weight is beyond float16.
    """
    return _RULES[precision](program, uint8)


def _float32(program: Program, _: bool) -> Program:
    return program


def _float16(program: Program, uint8: bool) -> Program:
    builder = Builder(program.input)
    moves = moving(program)
    centred: list[Operand] = []
    # In float32: the input, and what depends on no value of it.
    fixed: set[Operand] = set() if uint8 else {INPUT}

    def narrow(operand: Operand, factor: float = 1.0) -> Operand:
        if isinstance(operand, Weight):
            return _rounded(operand, factor)
        return cast(builder, operand, _HALF, "border") if operand in fixed else operand

    def rule(builder: Builder, step: Operation, operands: list[Operand]) -> Operand:
        if not any(item in moves for item in step.operands if isinstance(item, str)):
            fixed.add(made := copied(builder, step, operands))
            return made
        if step.kind in WIDE:
            wide = [_widened(builder, item, fixed, step.name) for item in operands]
            return cast(builder, copied(builder, step, wide), _HALF, step.name)
        if step.kind == "Cast" and step.attributes["to"] == _FLOAT:
            return cast(builder, operands[0], _HALF, step.name)
        factors = [
            PIXEL_SCALE if place == 1 and operands[0] in centred else 1.0 for place in range(len(operands))
        ]
        made = copied(builder, step, [narrow(*pair) for pair in zip(operands, factors, strict=True)])
        if _is_centring(step):
            made = _scaled(builder, made, np.float16)
            centred.append(made)
        return made

    outputs = rewritten(program, rule, builder=builder)
    return builder.finish([cast(builder, narrow(item), _FLOAT, "border") for item in outputs])


def _widened(builder: Builder, operand: Operand, fixed: set[Operand], name: str) -> Operand:
    return (
        operand if isinstance(operand, Weight) or operand in fixed else cast(builder, operand, _FLOAT, name)
    )


def _storage(program: Program, _: bool) -> Program:
    builder = Builder(program.input)
    centred: list[Operand] = []
    differences = {f"#{index}" for index, step in enumerate(program.steps) if _is_centring(step)}
    takers = [step.operands[1] for step in program.steps if step.operands[0] in differences]
    scales = any(map(_is_stored, takers))

    def rule(builder: Builder, step: Operation, operands: list[Operand]) -> Operand:
        for place, item in enumerate(operands):
            if isinstance(item, Weight) and _is_stored(item):
                factor = PIXEL_SCALE if place == 1 and operands[0] in centred else 1.0
                operands[place] = _weight(item, _rounded(item, factor).array.astype(np.float32))
        made = copied(builder, step, operands)
        if scales and _is_centring(step):
            made = _scaled(builder, made, np.float32)
            centred.append(made)
        return made

    return builder.finish(rewritten(program, rule, builder=builder))


def _int8(program: Program, _: bool) -> Program:
    builder = Builder(program.input)
    behind: set[Operand] = set()  # operands of the new program behind a product with a weight

    def rule(builder: Builder, step: Operation, operands: list[Operand]) -> Operand:
        weighted = step.kind in ("Conv", "MatMul") and any(isinstance(item, Weight) for item in operands[:2])
        deep = any(item in behind for item in operands if isinstance(item, str))
        matrix = operands[1] if deep and weighted and step.kind == "MatMul" else None
        if isinstance(matrix, Weight) and matrix.array.ndim == 2:
            made = _quantised_product(builder, step, operands[0], matrix)
        else:
            made = copied(builder, step, operands)
        if deep or weighted:
            behind.add(made)
        return made

    return builder.finish(rewritten(program, rule, builder=builder))


def _quantised_product(builder: Builder, step: Operation, rows: Operand, matrix: Weight) -> Operand:
    array, columns = quantised(matrix.array, matrix.name)
    levels, scale, zero = (_dynamic(builder, rows, place, step.name) for place in range(3))

    def add(kind: str, operands: list[Operand], shape: Shape, **attributes: int) -> Operand:
        return builder.add(kind, operands, name=step.name, shape=shape, attributes=attributes)

    sums = add("MatMulInteger", [levels, _weight(matrix, array), zero], step.shape)
    wide = add("Cast", [sums], step.shape, to=_FLOAT)
    both = add("Mul", [scale, _weight(matrix, columns)], columns.shape)
    return add("Mul", [wide, both], step.shape)


def _dynamic(builder: Builder, rows: Operand, place: int, name: str) -> Operand:
    """Levels, scale or zero point of what a product takes."""
    shape = () if place else builder.shape_of(rows)
    attributes = {"result": place}
    return builder.add("DynamicQuantizeLinear", [rows], name=name, shape=shape, attributes=attributes)


def _rounded(weight: Weight, factor: float = 1.0) -> Weight:
    if weight.array.dtype != np.float32:
        return weight
    return _weight(weight, half(weight.array, weight.name, factor=factor))


def _weight(weight: Weight, array: Array) -> Weight:
    return Weight(weight.name, array)


def _is_stored(operand: Operand) -> bool:
    return isinstance(operand, Weight) and operand.array.dtype == np.float32 and is_matrix(operand.array)


def _is_centring(step: Operation) -> bool:
    """Whether a step takes 128 from the pixels."""
    return step.kind == "Sub" and any(
        isinstance(item, Weight) and item.name == CENTRE_NAME for item in step.operands
    )


def _scaled(builder: Builder, centred: Operand, dtype: type[np.floating]) -> Operand:
    scale = Weight(SCALE_NAME, np.array(1 / PIXEL_SCALE, dtype))
    return builder.add("Mul", [centred, scale], name="pixels", shape=builder.shape_of(centred))


_RULES: Mapping[str, Callable[[Program, bool], Program]] = MappingProxyType(
    {FLOAT32: _float32, FLOAT16: _float16, STORAGE: _storage, INT8: _int8}
)
