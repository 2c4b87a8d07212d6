"""timm's data configuration of a model, as the contract `timm` means it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export import contract as contracts

CONTRACT = "timm"
"""Name of the contract."""

NESTED = "pretrained_cfg"
"""Where the configuration stands in a checkpoint's config.json."""

_RESAMPLE: Mapping[str, pb.Resample.ValueType] = MappingProxyType(
    {
        "nearest": pb.RESAMPLE_NEAREST,
        "bilinear": pb.RESAMPLE_BILINEAR,
        "bicubic": pb.RESAMPLE_BICUBIC,
        "lanczos": pb.RESAMPLE_LANCZOS,
        "box": pb.RESAMPLE_BOX,
        "hamming": pb.RESAMPLE_HAMMING,
    }
)
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_pct": 0.875,
        "crop_mode": "center",
    }
)
_MODES = ("center", "squash")


def from_timm(config: Mapping[str, Any]) -> pb.Preprocessing:
    """What timm's evaluation transform does for a model of this configuration.

    `center` resizes the shortest edge to input size / crop_pct, rounded down, and takes the middle; `squash`
    resizes both sides. What is absent or empty is timm's own default.

    Args:
        config: a model's `pretrained_cfg`, what `timm.data.resolve_data_config` gives, or a config.json that
            holds the former.

    Raises:
        InvalidArgumentError: it asks for what cannot be honoured, by name.
    """
    inner = config.get(NESTED)
    given = inner if isinstance(inner, Mapping) else config
    told = {key: given.get(key) or value for key, value in _DEFAULTS.items()}
    if given.get("crop_border_pixels"):
        raise InvalidArgumentError("timm: crop_border_pixels cannot be honoured: no border is trimmed")
    if told["crop_mode"] not in _MODES:
        known = " and ".join(_MODES)
        raise InvalidArgumentError(f"timm: crop_mode {told['crop_mode']!r} cannot be honoured; {known} can")
    if told["interpolation"] not in _RESAMPLE:
        known = ", ".join(_RESAMPLE)
        message = f"timm: interpolation {told['interpolation']!r} cannot be honoured; known are {known}"
        raise InvalidArgumentError(message)
    height, width = _sides(told["input_size"])
    scaled = [_scaled(side, told["crop_pct"]) for side in (height, width)]
    made = pb.Preprocessing(
        resample=_RESAMPLE[told["interpolation"]],
        rescale_factor=1 / 255,
        mean=_channels("mean", told["mean"]),
        std=_channels("std", told["std"]),
        crop_size=tensor_pb2.ImageSize(height=height, width=width),
    )
    if told["crop_mode"] == "squash":
        made.size.CopyFrom(tensor_pb2.ImageSize(height=scaled[0], width=scaled[1]))
    elif height == width:
        made.shortest_edge = scaled[0]
    else:
        message = f"timm: an input of {height} x {width} in crop_mode center cannot be honoured; squash can"
        raise InvalidArgumentError(message)
    return contracts.stated(made, CONTRACT)


def _sides(value: Any) -> tuple[int, int]:
    sizes = list(value) if isinstance(value, list | tuple) else []
    if len(sizes) != 3 or any(type(size) is not int or not 0 < size < 1 << 16 for size in sizes):
        raise InvalidArgumentError(f"timm: input_size is channels, height and width, not {value!r}")
    if sizes[0] != 3:
        raise InvalidArgumentError(f"timm: input_size has {sizes[0]} channels; pictures have 3")
    return sizes[1], sizes[2]


def _scaled(side: int, crop_pct: Any) -> int:
    if type(crop_pct) not in (int, float) or not 0.01 <= crop_pct <= 10:
        raise InvalidArgumentError(f"timm: crop_pct is a number from 0.01 to 10, not {crop_pct!r}")
    return max(1, math.floor(side / float(crop_pct)))


def _channels(key: str, value: Any) -> list[float]:
    values = list(value) if isinstance(value, list | tuple) else []
    if len(values) != 3 or any(type(item) not in (int, float) for item in values):
        raise InvalidArgumentError(f"timm: {key} is three numbers, not {value!r}")
    return [float(item) for item in values]
