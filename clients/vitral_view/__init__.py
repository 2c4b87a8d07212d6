"""Figures of what a patch embedding does, drawn on one's own picture from an artifact's own tensors.

    import vitral_view

    scene = vitral_view.read("models/patch-embedding", "photo.jpg")
    vitral_view.write("steps.png", scene)

It needs the extra `vitral[view]` and no runtime: the projection is computed with NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitral_view.output import write
    from vitral_view.scene import Scene, read

__all__ = ["Scene", "read", "write"]

_HOMES = {"Scene": "vitral_view.scene", "read": "vitral_view.scene", "write": "vitral_view.output"}


def __getattr__(name: str) -> object:
    # Late: `vitral --help` imports this package for its commands, and must not wait for matplotlib.
    if name in __all__:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
