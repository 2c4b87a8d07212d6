"""The steps of a torch module: its decomposed ATen program, in ONNX's terms.

To add an operator, write one function from its ATen node to an `Operation` and list it in `_READERS`. An
operator that is not listed fails the export: what cannot be compared is not proven.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import InputKind
from torch.fx import Node

from vitral.errors import ProofError
from vitral_export.onnx_graph import quiet_exporter
from vitral_export.operations import INPUT, Operand, Operation, Program, Weight
from vitral_export.wrap import PREFIX

_Operands = Mapping[Node, Operand]


def read(module: nn.Module, shape: Sequence[int]) -> Program:
    """The steps of `module` for a float32 input of this shape, whose first extent is dynamic.

    Raises:
        ProofError: there is no reader for one of its operators.
    """
    batch = torch.export.Dim.DYNAMIC  # raises where the extent would come out fixed
    with quiet_exporter():
        program = torch.export.export(module, (torch.zeros(tuple(shape)),), dynamic_shapes=({0: batch},))
        program = program.run_decompositions()
    known: dict[Node, Operand] = dict(_leaves(program))
    steps: list[Operation] = []
    for node in program.graph.nodes:
        if node.op != "call_function" or str(node.target) in _SIZES:
            continue
        if str(node.target) not in _READERS:
            raise ProofError(f"structure: no rule for torch's operator {node.target}")
        known[node] = f"#{len(steps)}"
        steps.append(_READERS[str(node.target)](node, known))
    results: Any = program.graph.output_node().args[0]
    return Program(tuple(steps), tuple(known[result] for result in results))


def _leaves(program: torch.export.ExportedProgram) -> list[tuple[Node, Operand]]:
    held = {**program.state_dict, **program.constants}
    places = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    leaves: list[tuple[Node, Operand]] = []
    for spec in program.graph_signature.input_specs:
        node = places[spec.arg.name]
        if spec.kind == InputKind.USER_INPUT:
            leaves.append((node, INPUT))
        else:
            assert spec.target is not None
            tensor = held[spec.target]
            assert isinstance(tensor, torch.Tensor)
            leaves.append((node, Weight(spec.target.removeprefix(PREFIX), tensor.detach().numpy())))
    return leaves


def _convolution(node: Node, known: _Operands) -> Operation:
    image, weight, bias, stride, padding, dilation, transposed, extra, groups = _arguments(node)
    if transposed or any(extra):
        raise ProofError(f"structure: {node.name} is a transposed convolution, for which there is no rule")
    operands = [known[item] for item in (image, weight, bias) if item is not None]
    attributes = {
        "strides": tuple(stride),
        "pads": (*padding, *padding),
        "dilations": tuple(dilation),
        "group": groups,
    }
    return Operation("Conv", attributes, tuple(operands), node.name)


def _view(node: Node, known: _Operands) -> Operation:
    source, shape = _arguments(node)
    extents = tuple(item if isinstance(item, int) and item >= 0 else None for item in shape)
    return Operation("Reshape", {"shape": extents}, (known[source],), node.name)


def _permute(node: Node, known: _Operands) -> Operation:
    source, order = _arguments(node)
    perm = tuple(axis % len(order) for axis in order)
    return Operation("Transpose", {"perm": perm}, (known[source],), node.name)


def _arguments(node: Node) -> tuple[Any, ...]:
    """Every argument of the operator in the order of its schema, defaults filled in."""
    target: Any = node.target
    given = dict(zip((item.name for item in target._schema.arguments), node.args, strict=False)) | node.kwargs
    return tuple(given.get(item.name, item.default_value) for item in target._schema.arguments)


_SIZES = frozenset({"aten.sym_size.int"})
"""Operators on extents; they show up again in the shapes that use them."""

_READERS: Mapping[str, Callable[[Node, _Operands], Operation]] = MappingProxyType(
    {
        "aten.convolution.default": _convolution,
        "aten.permute.default": _permute,
        "aten.view.default": _view,
    }
)
