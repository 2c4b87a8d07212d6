"""What is installed, held against what vitral's own extras ask for."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from vitral import __version__

ROLES = ("cli", "server", "export", "extract", "view")
"""Extras that are roles; the client needs none."""

_SHOWN = ("numpy", "protobuf", "grpcio", "pillow")
_OPTIONAL = (
    "safetensors",
    "rich",
    "blake3",
    "pyarrow",
    "matplotlib",
    "torch",
    "onnx",
    "transformers",
    "datasets",
)
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+).*?; extra == '(?P<extra>[a-z]+)'")


@dataclass(frozen=True)
class Versions:
    """Libraries and roles.

    Attributes:
        libraries: name to version, "" where a library is not installed.
        missing: role to the distributions it lacks; empty where it has all of them.
    """

    libraries: Mapping[str, str]
    missing: Mapping[str, tuple[str, ...]]


def look() -> Versions:
    """What is installed now."""
    libraries = {"vitral": __version__, "python": platform.python_version()}
    libraries |= {name: version(name) for name in _SHOWN}
    libraries |= {name: found for name in _OPTIONAL if (found := version(name))}
    return Versions(libraries, _missing())


def version(distribution: str) -> str:
    """The version of a distribution; "" where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _missing() -> dict[str, tuple[str, ...]]:
    try:
        lines = metadata.requires("vitral") or []
    except metadata.PackageNotFoundError:  # run from its source, not installed
        return {}
    needed: dict[str, list[str]] = {}
    for line in lines:
        if found := _REQUIREMENT.match(line):
            needed.setdefault(found["extra"], []).append(found["name"])
    return {
        role: tuple(name for name in needed[role] if not version(name)) for role in ROLES if role in needed
    }
