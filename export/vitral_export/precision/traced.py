"""The module's traced program run in PyTorch, node by node, so that a node can be watched or replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node

from vitral_export.trace import trace
from vitral_export.wrap import PREFIX


class Traced(Interpreter):
    """Runs the program of a module; called like the module.

    Args:
        module: any module from one tensor to a tuple of them.
        shape: of its input, with the batch that is traced.

    Raises:
        ProofError: torch cannot trace the module.
    """

    def __init__(self, module: nn.Module, shape: Sequence[int]) -> None:
        program = trace(module, shape)
        super().__init__(program.graph_module)
        self._leaves = _leaves(program)
        nodes = list(program.graph.nodes)
        places = [node for node in nodes if node.op == "placeholder"]
        self.input = places[self._leaves.index(None)]
        self.moving = _behind({self.input}, nodes)

    def __call__(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The outputs for a batch of rows."""
        arguments = [rows if leaf is None else leaf for leaf in self._leaves]
        outputs: tuple[Tensor, ...] = tuple(self.run(*arguments))
        return outputs

    def weights_of(self, node: Node) -> list[Node]:
        """What a node takes that does not depend on the input."""
        return [item for item in node.all_input_nodes if item not in self.moving]

    def behind(self, nodes: Sequence[Node]) -> set[Node]:
        """These nodes and all that take any of their results, straight or not."""
        return _behind(set(nodes), list(self.graph.nodes))


def path_of(node: Node) -> str:
    """`layers.0.mlp.fc1 (linear_4)`: the submodule that a node is of, and its own name."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    path = paths[-1].removeprefix(PREFIX.rstrip(".")).lstrip(".") if paths else ""
    return f"{path} ({node.name})" if path else node.name


def _leaves(program: torch.export.ExportedProgram) -> list[Tensor | None]:
    """The tensors that the program takes, in order; None for the input."""
    held = {**program.state_dict, **program.constants}

    def leaves() -> Iterator[Tensor | None]:
        for spec in program.graph_signature.input_specs:
            if spec.kind == InputKind.USER_INPUT:
                yield None
            else:
                assert spec.target is not None
                tensor = held[spec.target]
                assert isinstance(tensor, Tensor)
                yield tensor.detach()

    return list(leaves())


def _behind(first: set[Node], nodes: Sequence[Node]) -> set[Node]:
    found = set(first)
    for node in nodes:
        if node.op == "call_function" and any(item in found for item in node.all_input_nodes):
            found.add(node)
    return found
