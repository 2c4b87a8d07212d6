"""The models that this protocol sees: each served one by its name, and `NAME_image` for image files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vitral import spec as specs
from vitral.errors import InvalidArgumentError, ModelNotFoundError, UnavailableError
from vitral.v1 import model_pb2 as pb
from vitral_engine.engine import Model
from vitral_server.call import Door
from vitral_server.kserve import configuration
from vitral_server.kserve.datatype import BYTES, NAMES, TensorType
from vitral_server.registry import Registry, Served

log = logging.getLogger(__name__)

SUFFIX = "_image"
"""What stands behind the name of the model that takes image files."""

IMAGE = "image"
"""Its input."""

_LARGEST_VERSION = 2**63 - 1


@dataclass(frozen=True)
class Face:
    """How an open model looks to callers of this protocol.

    Attributes:
        input: what it takes.
        outputs: what it gives, by name.
        door: how its rows come in.
        max_batch_size: of a request; 0 where the rows are no batch axis to callers.
        config: Triton's `ModelConfig` of the model's folder.
    """

    input: TensorType
    outputs: dict[str, TensorType]
    door: Door
    max_batch_size: int
    config: Any


@dataclass(frozen=True)
class Entry:
    """One version of a model under one name.

    Attributes:
        name: `NAME` or `NAME_image`.
        served: the model.
        face: None where the model could not be opened.
    """

    name: str
    served: Served
    face: Face | None

    @property
    def version(self) -> str:
        """Name of its folder."""
        return self.served.version


class Catalogue:
    """Every model by its name. Made once, from a registry that is filled."""

    def __init__(self, registry: Registry) -> None:
        self._entries: dict[str, list[Entry]] = {}
        for served in registry.models:
            face = None if served.engine is None else _tensor_face(served.engine)
            self._add(Entry(served.name, served, face))
        taken = set(self._entries)
        for served in registry.models:
            if served.engine is None or not served.engine.spec.HasField("preprocessing"):
                continue
            name = f"{served.name}{SUFFIX}"
            if name in taken:
                log.warning("a model has the name of another's image model", extra={"model": name})
                continue
            self._add(Entry(name, served, _image_face(served.engine, name)))

    def __iter__(self) -> Iterator[Entry]:
        """All of them by name, then version."""
        for name in sorted(self._entries):
            yield from self._entries[name]

    def versions(self, name: str) -> list[str]:
        """Those of a model that were opened, oldest first."""
        return [entry.version for entry in self._entries[name] if entry.face is not None]

    def is_ready(self, name: str, version: str) -> bool:
        """Whether this version, or without one any, serves.

        Raises:
            InvalidArgumentError: the version is no number.
        """
        wanted = _version(version)
        found = (entry for entry in self._entries.get(name, []) if wanted in ("", entry.version))
        return any(not entry.served.fault for entry in found)

    def find(self, name: str, version: str) -> tuple[Entry, Face]:
        """The model of this name and version, the newest where none is given.

        Raises:
            InvalidArgumentError: the version is no number.
            ModelNotFoundError: there is no such model or version.
            UnavailableError: it does not serve; the message says why.
        """
        wanted, entries = _version(version), self._entries.get(name, [])
        if not entries:
            raise ModelNotFoundError(f"Request for unknown model: '{name}' is not found")
        if wanted:
            entries = [entry for entry in entries if entry.version == wanted]
            if not entries:
                raise ModelNotFoundError(f"Request for unknown model: '{name}' version {wanted} is not found")
        else:
            entries = [entry for entry in entries if entry.face is not None]
            if not entries:
                raise ModelNotFoundError(f"Request for unknown model: '{name}' has no available versions")
        entry = entries[-1]
        if entry.face is None or entry.served.fault:
            told = f"'{name}' version {entry.version} is not at ready state: {entry.served.fault}"
            raise UnavailableError(f"Request for unknown model: {told}")
        return entry, entry.face

    def chosen(self, name: str, version: str) -> list[Entry]:
        """The versions of this name that were opened; without a name all there are.

        Raises:
            InvalidArgumentError: there is none, or the version is no number.
        """
        wanted = _version(version)
        if not name:
            return [one for one in self if one.face is not None]
        entries = [one for one in self._entries.get(name, []) if one.face is not None]
        if not entries:
            raise InvalidArgumentError(f"requested model '{name}' is not available")
        found = [one for one in entries if wanted in ("", one.version)]
        if not found:
            raise InvalidArgumentError(f"requested model version is not available for model '{name}'")
        return found

    def _add(self, entry: Entry) -> None:
        self._entries.setdefault(entry.name, []).append(entry)


def _version(text: str) -> str:
    """The version as its folder is named, empty for the newest."""
    if not text:
        return ""
    number = re.match(r"\s*([+-]?[0-9]+)", text)  # what follows is ignored, as by C's strtol
    if number is None or len(number[1]) > 30 or abs(int(number[1])) > _LARGEST_VERSION:
        told = f"failed to get model version from specified version string '{text[:40]}' (details: stol)"
        raise InvalidArgumentError(f"{told}, version should be an integral value > 0")
    if int(number[1]) < 0:
        told = f"invalid model version specified '{text}' "
        raise InvalidArgumentError(f"{told}, version should be an integral value > 0")
    return str(int(number[1]))


def _tensor_face(model: Model) -> Face:
    """The float graph as it is: -1 for the extents that callers choose."""
    graph = specs.plain_graph(model.spec)
    taken = graph.input
    config = configuration.of_model(model)
    return Face(
        TensorType(taken.name, NAMES[taken.dtype], _dims(taken.axes), taken.dtype),
        outputs_of(model.spec),
        Door.TENSOR,
        config.max_batch_size,
        config,
    )


def _image_face(model: Model, name: str) -> Face:
    """The same outputs from image files, at the native size."""
    taken, outputs = TensorType(IMAGE, BYTES, (-1,)), outputs_of(model.at(None).spec)
    return Face(taken, outputs, Door.ENCODED, 0, configuration.of_images(name, taken, outputs.values()))


def outputs_of(spec: pb.ModelSpec) -> dict[str, TensorType]:
    """What the plain graph gives, by name."""
    items = (specs.output(spec, name) for name in specs.plain_graph(spec).outputs)
    return {
        item.name: TensorType(item.name, NAMES[item.dtype], _dims(item.axes), item.dtype) for item in items
    }


def _dims(axes: Sequence[pb.Axis]) -> tuple[int, ...]:
    """Extents of one row."""
    return tuple(axis.size or -1 for axis in axes[1:])
