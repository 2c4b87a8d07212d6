"""The module's traced program run in PyTorch, node by node, so that a node can be watched or replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.fx import Interpreter, Node

from vitral_export.torch_nodes import leaves
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
        taken = leaves(program)
        self._leaves = [None if held is None else held[1] for held in taken.values()]
        self.input = next(node for node, held in taken.items() if held is None)
        self.moving = _behind({self.input}, list(program.graph.nodes))

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


def _behind(first: set[Node], nodes: Sequence[Node]) -> set[Node]:
    found = set(first)
    for node in nodes:
        if node.op == "call_function" and any(item in found for item in node.all_input_nodes):
            found.add(node)
    return found
