"""The file that says what values of any channels are multiplied with, and what is added: contract raw-scale.

{"scale": [0.0001, 0.0001, 0.0001, 0.0001], "offset": [0, 0, 0, -0.1]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export import contract as contracts

_KEYS = ("scale", "offset")


def raw_scale(
    *,
    scale: float | Sequence[float],
    offset: float | Sequence[float] = 0.0,
    channels: int,
    size: tensor_pb2.ImageSize,
) -> pb.Preprocessing:
    """The contract x = value * scale + offset, a pair for each channel; one number is for all of them.

    Raises:
        InvalidArgumentError: there are other numbers than channels, or they mean nothing.
    """
    told = pb.Preprocessing(
        contract=contracts.RAW,
        bound=contracts.BOUNDS[contracts.RAW],
        size=size,
        scale=_each("scale", scale, channels),
        offset=_each("offset", offset, channels),
    )
    contracts.check(told)
    return told


def read(path: Path, *, channels: int, size: tensor_pb2.ImageSize) -> pb.Preprocessing:
    """The same from a file.

    Raises:
        InvalidArgumentError: it cannot be read, or holds something else.
    """
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise InvalidArgumentError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, Mapping) or "scale" not in config or set(config) - set(_KEYS):
        raise InvalidArgumentError(
            f"{path} is not {{'scale': ..., 'offset': ...}}, of which scale must be there"
        )
    try:
        return raw_scale(scale=config["scale"], offset=config.get("offset", 0), channels=channels, size=size)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{path}: {error}") from None


def _each(key: str, value: Any, channels: int) -> list[float]:
    values = list(value) if isinstance(value, list | tuple) else [value] * channels
    if any(type(item) not in (int, float) for item in values):
        raise InvalidArgumentError(f"{key} is a number or one for each channel, not {value!r}")
    if len(values) != channels:
        raise InvalidArgumentError(f"{key} has {len(values)} numbers, the module has {channels} channels")
    return [float(item) for item in values]
