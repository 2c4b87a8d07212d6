"""What a node of torch's ATen program says: its arguments, its extents, the operands behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from vitral.errors import ProofError
from vitral_export.builder import Builder
from vitral_export.operations import BATCHES, Extent, Operand, Shape, Weight, extent_of

Known = dict[Node, Operand]
"""The operand behind each node read so far."""

Reader = Callable[[Node, Known, Builder], Operand]
"""From a node to the operand of its result."""


def leaves(program: ExportedProgram) -> dict[Node, tuple[str, torch.Tensor] | None]:
    """What a program takes, in its order: weights and constants with their names, and None for the input."""
    held = {**program.state_dict, **program.constants}
    places = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found: dict[Node, tuple[str, torch.Tensor] | None] = {}
    for spec in program.graph_signature.input_specs:
        node = places[spec.arg.name]
        if spec.kind == InputKind.USER_INPUT:
            found[node] = None
            continue
        assert spec.target is not None
        tensor = held[spec.target]
        assert isinstance(tensor, torch.Tensor)
        found[node] = spec.target, tensor.detach()
    return found


def is_random(node: Node) -> bool:
    """Whether a node gives other values each time."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def shape_of(node: Node) -> Shape:
    """Extents of a node's result.

    Raises:
        ProofError: one of them depends on more than the batch.
    """
    try:
        return tuple(_extent(item) for item in node.meta["val"].shape)
    except ValueError as error:
        raise ProofError(f"structure: {node.name}: {error}") from error


def _extent(value: int | torch.SymInt) -> Extent:
    if isinstance(value, int):
        return value
    expression = value.node.expr
    symbols = sorted(expression.free_symbols, key=str)
    if len(symbols) > 1:
        raise ValueError(f"an extent is {expression}, which depends on more than the batch")
    first, second = (int(expression.subs(dict.fromkeys(symbols, size))) for size in BATCHES)
    return extent_of(first, second)


def operand_of(item: Any, known: Known) -> Operand:
    """A tensor operand; Python numbers become float32 scalars, as torch takes them."""
    return known[item] if isinstance(item, Node) else Weight(str(item), np.array(item, np.float32))


def arguments_of(node: Node) -> tuple[Any, ...]:
    """Every argument of the operator in the order of its schema, defaults filled in."""
    target: Any = node.target
    given = dict(zip((item.name for item in target._schema.arguments), node.args, strict=False)) | node.kwargs
    return tuple(given.get(item.name, item.default_value) for item in target._schema.arguments)


def demand_float32(node: Node, dtype: torch.dtype | None) -> None:
    """Refuses a node that computes in another type.

    Raises:
        ProofError: with the type.
    """
    if dtype not in (None, torch.float32):
        raise ProofError(f"structure: {node.name} computes in {dtype}, for which there is no rule")
