"""The module as it is exported: in inference mode, with its outputs as a tuple."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from vitral.errors import ProofError
from vitral_export.loaded import Loaded

PREFIX = "module."
"""What the wrapper puts before the names of the module's parameters."""


class Inference(nn.Module):
    """A private copy of a module in eval mode on the CPU; the caller's own stays as it is.

    Attributes:
        module: the copy.
        names: the outputs, in order.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.module = copy.deepcopy(loaded.module).cpu().requires_grad_(False)
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
