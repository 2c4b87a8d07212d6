"""What a benchmark's figures hold for."""

from __future__ import annotations

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version

from vitral_engine.runtime import cpu_count


def machine() -> dict[str, object]:
    """Cores, kind of processor and versions."""
    names = [name for name in ("onnxruntime-gpu", "onnxruntime") if _installed(name)]
    libraries = {name: version(name) for name in ("torch", *names[:1], "grpcio", "pillow", "numpy")}
    return {
        "cores": cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    } | libraries


def _installed(name: str) -> bool:
    with contextlib.suppress(PackageNotFoundError):
        return bool(version(name))
    return False
