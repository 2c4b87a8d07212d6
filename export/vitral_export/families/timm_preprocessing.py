"""What timm's own evaluation does to the pictures of a model, by the model's data config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export import contract as contracts

_CONTRACT = "timm" if "timm" in contracts.BOUNDS else "hf-pil"
_RESAMPLE: Mapping[str, pb.Resample.ValueType] = MappingProxyType(
    {
        "bicubic": pb.RESAMPLE_BICUBIC,
        "bilinear": pb.RESAMPLE_BILINEAR,
        "box": pb.RESAMPLE_BOX,
        "hamming": pb.RESAMPLE_HAMMING,
        "lanczos": pb.RESAMPLE_LANCZOS,
        "nearest": pb.RESAMPLE_NEAREST,
    }
)


def read(model: Any, where: str) -> tuple[pb.Preprocessing | None, str]:
    """Resize, centre crop and normalisation; or why there is no contract for them.

    Args:
        model: of timm.
        where: what to call it in a message.
    """
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model)
    height, width = model.patch_embed.img_size
    scaled = [math.floor(side / config["crop_pct"]) for side in (height, width)]
    told = pb.Preprocessing(
        rescale_factor=1 / 255,
        mean=config["mean"],
        std=config["std"],
        crop_size=tensor_pb2.ImageSize(height=height, width=width),
    )
    mode, filter_ = config["crop_mode"], config["interpolation"]
    if filter_ in _RESAMPLE:
        told.resample = _RESAMPLE[filter_]
    if mode == "squash":
        told.size.CopyFrom(tensor_pb2.ImageSize(height=scaled[0], width=scaled[1]))
    else:
        told.shortest_edge = scaled[0]
    if filter_ not in _RESAMPLE or mode not in ("squash", "center") or (mode == "center" and height != width):
        why = f"{where} is cropped by {mode} to {height} x {width} with {filter_} resizing"
        ways = "--preprocessing FILE.json says what its pictures go through, none that there are none"
        return None, f"{why}, for which there is no contract: {ways}"
    return contracts.stated(told, _CONTRACT), ""
