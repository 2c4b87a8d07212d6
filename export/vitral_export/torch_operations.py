"""The steps of a torch module: its traced ATen program, in ONNX's terms.

An operator without a reader in `torch_readers.py` fails the export: what cannot be compared is not proven.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Node

from vitral.errors import ProofError
from vitral_export.builder import Builder
from vitral_export.operations import INPUT, Program, Weight
from vitral_export.torch_nodes import Known, is_random, leaves
from vitral_export.torch_readers import READERS, part
from vitral_export.torch_resize import KEPT
from vitral_export.trace import trace
from vitral_export.wrap import PREFIX


def read(module: nn.Module, shape: Sequence[int], *, sized: bool = False) -> Program:
    """The steps of `module` for a float32 input of this shape, whose first extent is dynamic.

    Args:
        module: from one tensor to a tuple of tensors.
        shape: of the input.
        sized: whether this is one of several sizes, so that what a graph computes from its size is a step.

    Raises:
        ProofError: there is no reader for one of its operators.
    """
    kept = KEPT if sized else ()
    program = trace(module, shape, kept=kept)
    known = _known(program)
    builder = Builder((None, *shape[1:]))
    for node in program.graph.nodes:
        if node.op != "call_function" or str(node.target) in _NO_STEPS or node.target is operator.mul:
            continue
        if _is_constant(node, known) and str(node.target) not in kept:
            known[node] = _computed(node, known)
            continue
        if node.target is operator.getitem:
            known[node] = part(node, known, builder)
            continue
        reader = READERS.get(str(node.target)) or KEPT.get(str(node.target))
        if reader is None:
            raise ProofError(f"structure: no rule for torch's operator {node.target}")
        try:
            known[node] = reader(node, known, builder)
        except ValueError as error:
            raise ProofError(f"structure: {error}") from error
    results: Any = program.graph.output_node().args[0]
    return builder.finish([known[result] for result in results])


def _known(program: torch.export.ExportedProgram) -> Known:
    return {
        node: INPUT if held is None else Weight(held[0].removeprefix(PREFIX), held[1].numpy())
        for node, held in leaves(program).items()
    }


def _is_constant(node: Node, known: Known) -> bool:
    """Whether a node depends on weights alone: not on the input, nor its extents, nor chance."""
    return not is_random(node) and all(isinstance(known.get(item), Weight) for item in node.all_input_nodes)


def _computed(node: Node, known: Known) -> Weight:
    """The value of a node that depends on weights alone, by torch's own operator."""

    def value(item: Node) -> torch.Tensor:
        weight = known[item]
        assert isinstance(weight, Weight)
        return torch.from_numpy(weight.array)

    target: Any = node.target
    args: Any = torch.fx.map_arg(node.args, value)
    kwargs: Any = torch.fx.map_arg(node.kwargs, value)
    held = [item for item in map(known.get, node.all_input_nodes) if isinstance(item, Weight)]
    names = dict.fromkeys(item.name for item in held if item.array.dtype.kind == "f")  # indices say nothing
    return Weight(" + ".join(names) or node.name, np.asarray(target(*args, **kwargs)))


_NO_STEPS = frozenset(
    {
        "aten.sym_size.int",
        "aten._assert_tensor_metadata.default",
        "aten.split.Tensor",
        "aten.split_with_sizes.default",
        "aten.unbind.int",
    }
)
"""Operators on extents, which show up again in the shapes that use them; checks without a result; and those
of several results, which are read where one of them is taken."""
