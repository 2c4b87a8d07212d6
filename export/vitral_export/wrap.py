"""The module as it is exported: in inference mode, with its outputs as a tuple."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from vitral.errors import ProofError, UnsupportedError
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


def widened(module: nn.Module) -> nn.Module:
    """A copy in float64. Its float32 is not copied on the way: of a large model that would be too much."""
    wide = {
        id(own): nn.Parameter(own.detach().double(), requires_grad=False)
        for own in module.parameters()
        if own.is_floating_point()
    }
    return copy.deepcopy(module, dict(wide)).double()
