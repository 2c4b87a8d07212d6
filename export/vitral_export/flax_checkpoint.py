"""Google's checkpoints of Vision Transformers: NumPy archives of arrays, under the names that Flax gave them.

Nothing is unpickled, so that no file can run code. Names are those behind the prefix under which a training
state keeps the parameters of the image model; what else such a file holds is not read.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from vitral.errors import InvalidArgumentError
from vitral_export import hub

PREFIX = "npz:"
"""What the names of these sources begin with."""

PROJECTION = "embedding/kernel"
"""The array that every Vision Transformer has: (height, width, channel, feature) of a patch."""

_STATES = ("", "opt/target/", "params/", "params/img/")
_MEMBER = ".npy"
_BFLOAT16 = np.dtype("V2")  # NumPy has no such type: the file holds two bytes of no meaning
_HEADERS = MappingProxyType(
    {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
)


@dataclass(frozen=True)
class Archive:
    """A checkpoint whose names and shapes are known.

    Attributes:
        name: as it was asked for, `npz:...`.
        file: where it is.
        prefix: what the names of its parameters begin with in the file.
        shapes: parameter to the shape of its array.
    """

    name: str
    file: Path
    prefix: str
    shapes: Mapping[str, tuple[int, ...]]

    def read(self, key: str) -> NDArray[np.float32]:
        """The values of a parameter; halves are widened, which rounds nothing.

        Raises:
            InvalidArgumentError: they cannot be read, are of another type, or NaN or Inf is among them.
        """
        where = f"{self.name}: {key}"
        path = self.prefix + key + _MEMBER
        with hub.told(where), zipfile.ZipFile(self.file) as archive, archive.open(path) as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
        if array.dtype == _BFLOAT16:
            halves = np.ascontiguousarray(array).view(np.uint16).astype(np.uint32)
            array = (halves << 16).view(np.float32)
        elif array.dtype.kind != "f" or array.dtype.itemsize > 4:
            said = f"{where} is {array.dtype}, float32, float16 or bfloat16 is expected"
            raise InvalidArgumentError(said)
        values: NDArray[np.float32] = array.astype(np.float32)
        if bad := int((~np.isfinite(values)).sum()):
            raise InvalidArgumentError(f"{where} holds NaN or Inf in {bad} of {values.size} elements")
        return values

    def sha256(self) -> str:
        """The hash of the file, in hex."""
        with self.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def find(name: str) -> Archive:
    """The checkpoint of `npz:FILE`.

    Raises:
        InvalidArgumentError: there is no such file, it is no NumPy archive, or it has no patch projection.
    """
    file = Path(name.removeprefix(PREFIX)).expanduser()
    if not name.removeprefix(PREFIX) or not file.is_file():
        raise InvalidArgumentError(f"{name}: there is no such file")
    with hub.told(name), zipfile.ZipFile(file) as archive:
        held = {
            member.removesuffix(_MEMBER): member for member in archive.namelist() if member.endswith(_MEMBER)
        }
        prefix = next((state for state in _STATES if state + PROJECTION in held), None)
        if prefix is None:
            some = f"; it holds {', '.join(sorted(held)[:3])} ..." if held else ""
            raise InvalidArgumentError(f"{name} has no {PROJECTION}: it is no Vision Transformer{some}")
        shapes = {}
        for key, member in sorted(held.items()):
            if key.startswith(prefix):
                with hub.told(f"{name}: {key}"), archive.open(member) as opened:
                    shapes[key.removeprefix(prefix)] = _shape(opened)
    return Archive(name, file, prefix, shapes)


def _shape(member: IO[bytes]) -> tuple[int, ...]:
    """The shape that the head of an array states."""
    version = np.lib.format.read_magic(member)
    if version not in _HEADERS:
        raise InvalidArgumentError(f"an array of version {version} is not known")
    shape: tuple[int, ...] = _HEADERS[version](member)[0]
    return shape
