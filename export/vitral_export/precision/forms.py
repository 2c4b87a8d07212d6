"""The same loss in PyTorch, by means of its own: what a precision's error is measured by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import Node

from vitral.errors import ProofError
from vitral_export.precision.kinds import FLOAT16, FLOAT32, HALF_MAX, INT8
from vitral_export.precision.traced import Traced, path_of

Form: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""From float32 rows to float32 outputs."""

_LEVELS = 127


def form(module: nn.Module, precision: str, shape: Sequence[int], *, device: str = "cpu") -> Form:
    """The module in this precision.

    Args:
        module: in float32; it is not changed.
        precision: one of `PRECISIONS`.
        shape: of its input, with the batch that is traced.
        device: of PyTorch, for float16.
    """
    if precision == FLOAT32:
        return module
    if precision == FLOAT16:
        return _Half(module, device)
    return _Int8(module, shape) if precision == INT8 else _rounded(module)


class _Half:
    """PyTorch's own half of a module."""

    def __init__(self, module: nn.Module, device: str) -> None:
        self._module = copy.deepcopy(module).half().to(device)
        self._device = device

    def __call__(self, rows: Tensor) -> tuple[Tensor, ...]:
        try:
            outputs = self._module(rows.to(self._device).half())
        except RuntimeError as error:
            said = " ".join(str(error).split())[:200]
            raise ProofError(f"numbers: the module itself does not run in float16: {said}") from error
        return tuple(item.float().cpu() for item in outputs)


def _rounded(module: nn.Module) -> nn.Module:
    """The module with every matrix rounded to float16 and back."""
    made = copy.deepcopy(module)
    for tensor in (*made.parameters(), *made.buffers()):
        if tensor.dtype == torch.float32 and sum(extent > 1 for extent in tensor.shape) > 1:
            tensor.data = tensor.data.half().float()
    return made


class _Int8(Traced):
    """The module with every product with a matrix, but the first, quantised before it is multiplied.

    Each row is run alone, so that its range is its own.
    """

    def __init__(self, module: nn.Module, shape: Sequence[int]) -> None:
        super().__init__(module, shape)
        products = [node for node in self.graph.nodes if _is_product(node) and self.weights_of(node)]
        deep = self.behind(products)
        self._quantised = {
            node
            for node in products
            if deep.intersection(node.all_input_nodes) and _matrix(node) in self.weights_of(node)
        }

    def run_node(self, node: Node) -> Any:
        """The result of a node."""
        if node not in self._quantised:
            return super().run_node(node)
        taken: list[Any] = [self.env[item] if isinstance(item, Node) else item for item in node.args]
        rows, weight, *bias = taken
        matrix = weight.T if str(node.target) == _LINEAR else weight
        product = _product(rows, matrix)
        return product + bias[0] if bias and bias[0] is not None else product


_LINEAR = "aten.linear.default"
_MATRIX = (_LINEAR, "aten.matmul.default")
_CONVOLUTIONS = ("aten.conv2d.default", "aten.conv2d.padding")


def _is_product(node: Node) -> bool:
    return str(node.target) in (*_MATRIX, *_CONVOLUTIONS, "aten.bmm.default")


def _matrix(node: Node) -> Node | None:
    """The second factor of a product, where it has two axes."""
    factor = node.args[1]
    flat = str(node.target) in _MATRIX and isinstance(factor, Node) and factor.meta["val"].dim() == 2
    return factor if flat and isinstance(factor, Node) else None


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Rows (..., K) by matrix (K, N), both quantised; the sum of their levels is exact."""
    low, high = rows.min().clamp(max=0.0), rows.max().clamp(min=0.0)
    step = (high - low) / 255
    step = torch.where(step > 0, step, torch.ones_like(step))
    zero = torch.round(-low / step).clamp(0, 255)
    taken = (torch.round(rows / step) + zero).clamp(0, 255) - zero
    scale = matrix.abs().amax(0) / _LEVELS
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    levels = torch.round(matrix / scale).clamp(-_LEVELS, _LEVELS)
    return (taken.double() @ levels.double()).float() * (step * scale)


class _Watched(Traced):
    """Notes the largest value of every node that depends on the input."""

    def __init__(self, module: nn.Module, shape: Sequence[int]) -> None:
        super().__init__(module, shape)
        self.largest: dict[Node, float] = {}

    def run_node(self, node: Node) -> Any:
        """The result of a node."""
        result = super().run_node(node)
        if (
            node in self.moving
            and isinstance(result, Tensor)
            and result.is_floating_point()
            and result.numel()
        ):
            self.largest[node] = max(self.largest.get(node, 0.0), float(result.abs().max()))
        return result


def demand_in_range(module: nn.Module, rows: Tensor, shape: Sequence[int]) -> None:
    """Refuses a module in which a value goes beyond float16 on some of these rows, run one at a time.

    Raises:
        ProofError: with the first such tensor on the way from the input.
    """
    watched = _Watched(module, shape)
    for at in range(len(rows)):
        watched(rows[at : at + 1])
    for node, largest in watched.largest.items():
        if largest > HALF_MAX:
            told = f"{path_of(node)} reaches {largest:.6g}, float16 ends at {HALF_MAX:.0f}"
            raise ProofError(f"numbers: {told}")
