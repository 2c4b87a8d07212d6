"""The module as it is exported: in inference mode, with its outputs as a tuple."""

from __future__ import annotations

import copy

from torch import Tensor, nn

PREFIX = "module."
"""What the wrapper puts before the names of the module's parameters."""


class Inference(nn.Module):
    """A private copy of a module in eval mode on the CPU; the caller's own stays as it is.

    Attributes:
        module: the copy.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).cpu().requires_grad_(False)
        self.eval()

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """The module's outputs, in its own order."""
        result = self.module(pixel_values)
        return result if isinstance(result, tuple) else (result,)
