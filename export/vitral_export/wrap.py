"""The module as it is exported: in inference mode, with its outputs as a tuple."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from vitral.errors import ProofError, UnsupportedError
from vitral_export import heap
from vitral_export.loaded import Loaded

PREFIX = "module."
"""What the wrapper puts before the names of the module's parameters."""


class Inference(nn.Module):
    """A module in eval mode on the CPU; the caller's own stays as it is.

    Attributes:
        module: a copy that shares the values of the parameters.
        names: the outputs, in order.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.module = private(loaded.module)
        self.names = tuple(item.name for item in loaded.outputs)
        self._compute = loaded.compute
        self.eval()

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The outputs for a batch of rows.

        Raises:
            ProofError: the module does not give one of them.
        """
        found = self._compute(self.module, rows)
        if missing := [name for name in self.names if name not in found]:
            raise ProofError(f"numbers: the module gives {', '.join(found)}, not {', '.join(missing)}")
        return tuple(found[name] for name in self.names)


def private(module: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU. It has parameters of its own over the same memory: large ones fit once.

    Raises:
        UnsupportedError: it holds something that cannot be copied.
    """
    try:
        shared = {
            id(own): nn.Parameter(own.detach(), requires_grad=False)
            for own in module.parameters()
            if type(own) is nn.Parameter  # another class may hold more than its values
        }
        return copy.deepcopy(module, dict(shared)).cpu().eval().requires_grad_(False)
    except Exception as error:  # whatever the attributes of a stranger's module raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnsupportedError(f"{type(module).__name__} cannot be copied: {said}") from error


@contextmanager
def widened(module: nn.Module) -> Iterator[nn.Module]:
    """The module in float64, in the place of its float32: both at once may not fit into memory.

    What it keeps for itself while it runs is its own; parameters are float32 again afterwards, to the bit.
    """
    narrow = {id(parameter): parameter for parameter in module.parameters()}
    types = {key: parameter.dtype for key, parameter in narrow.items()}
    wide = copy.deepcopy(module, dict(narrow))
    wide.double()
    try:
        yield wide
    finally:
        for key, parameter in narrow.items():
            parameter.data = parameter.data.to(types[key])
        del wide
        heap.trim()
