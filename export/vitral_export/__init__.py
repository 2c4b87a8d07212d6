"""Module -> ONNX -> optimise -> verify -> artifact. The only place that sees torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitral_export.adoption import adopt
    from vitral_export.build import Exported, export

__all__ = ["Exported", "adopt", "export"]


def __getattr__(name: str) -> object:
    # Replaying and inspecting an artifact need no torch, so nothing here imports it before it is used.
    if name == "adopt":
        from vitral_export import adoption

        return adoption.adopt
    if name in __all__:
        from vitral_export import build

        return getattr(build, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
