"""What a traced program computes from weights alone, worked out once by torch's own operators.

Tables of rotary positions, relative position biases, positions interpolated to the one size that is exported:
left in the graph they would be computed in every run, by operators that round otherwise than torch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node

from vitral_export.torch_nodes import is_random, leaves

Values = dict[Node, Any]
"""What is known of nodes before the program has an input: tensors, or several of them."""


def fold(program: ExportedProgram, *, kept: Collection[str] = ()) -> None:
    """Makes a constant of everything that the program computes from weights alone.

    Steps that only move whole weights stay: whoever reads the graph finds the weights in them. So do the
    operators in `kept`, and what is computed from their results.
    """
    values: Values = {node: held[1] for node, held in leaves(program).items() if held is not None}
    computed: set[Node] = set()
    for node in program.graph.nodes:
        if node.op != "call_function" or node in values or str(node.target) in kept:
            continue
        if not _is_constant(node, values):
            continue
        values[node] = _value(node, values)
        if str(node.target) not in _MOVES or any(item in computed for item in node.all_input_nodes):
            computed.add(node)
    for node in [node for node in program.graph.nodes if node in computed]:
        users = [user for user in node.users if user not in computed and not _is_check(user)]
        if users and isinstance(values[node], Tensor):
            place = _placed(program, node, values[node])
            for user in users:
                user.replace_input_with(node, place)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def _is_constant(node: Node, values: Values) -> bool:
    """Whether a node depends on weights alone: not on the input, nor its extents, nor chance."""
    if is_random(node) or not _makes_tensors(node):
        return False
    return all(item in values for item in node.all_input_nodes)


def _makes_tensors(node: Node) -> bool:
    found = node.meta.get("val")
    return all(isinstance(item, Tensor) for item in (found if isinstance(found, list | tuple) else [found]))


def _is_check(node: Node) -> bool:
    """Whether a node gives nothing: it would only stop a run."""
    return str(node.target) == "aten._assert_tensor_metadata.default"


def _value(node: Node, values: Values) -> Any:
    target: Any = node.target
    args: Any = torch.fx.map_arg(node.args, values.__getitem__)
    kwargs: Any = torch.fx.map_arg(node.kwargs, values.__getitem__)
    with torch.no_grad():
        return target(*args, **kwargs)


def _placed(program: ExportedProgram, node: Node, value: Tensor) -> Node:
    """A new constant of the program, in front of its inputs."""
    specs = program.graph_signature.input_specs
    at = next(index for index, spec in enumerate(specs) if spec.kind == InputKind.USER_INPUT)
    places = [item for item in program.graph.nodes if item.op == "placeholder"]
    name = f"{_owner(node)}{node.name}_constant"
    with program.graph.inserting_before(places[at]):
        place: Node = program.graph.placeholder(name.replace(".", "_"))
    place.meta["val"] = node.meta["val"].fake_mode.from_tensor(value.contiguous(), static_shapes=True)
    argument = TensorArgument(name=place.name)
    specs.insert(at, InputSpec(InputKind.CONSTANT_TENSOR, argument, target=name, persistent=None))
    program.constants[name] = value.contiguous()
    return place


def _owner(node: Node) -> str:
    """`layers.0.` for a node of the submodule `layers.0`."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return f"{path}." if path else ""


_MOVES = frozenset(
    {
        "aten.alias.default",
        "aten.cat.default",
        "aten.clone.default",
        "aten.contiguous.default",
        "aten.detach.default",
        "aten.embedding.default",
        "aten.flatten.using_ints",
        "aten.permute.default",
        "aten.reshape.default",
        "aten.transpose.int",
        "aten.unsqueeze.default",
        "aten.view.default",
    }
)
"""Operators that only move whole weights."""
