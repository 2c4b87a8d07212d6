"""Preprocessing that an artifact promises, and its Hugging Face file."""

from __future__ import annotations

import json
import math
from typing import Literal

from vitral.errors import ArtifactError, InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine.preprocess import Preprocessor

FILE = "preprocessor_config.json"
"""Name of the Hugging Face file in the version folder."""

Choice = pb.Preprocessing | Literal["auto", "none"]
"""`auto`: what the source brings; `none`: only `prepared` rows are accepted; or one's own numbers."""

# Pillow's numbers, which preprocessor_config.json uses.
_PILLOW = {
    pb.RESAMPLE_NEAREST: 0,
    pb.RESAMPLE_LANCZOS: 1,
    pb.RESAMPLE_BILINEAR: 2,
    pb.RESAMPLE_BICUBIC: 3,
    pb.RESAMPLE_BOX: 4,
    pb.RESAMPLE_HAMMING: 5,
}


def default(size: int) -> pb.Preprocessing:
    """What `ViTImageProcessor` does by default, for square images of this size."""
    return pb.Preprocessing(
        contract="hf-pil",
        size=tensor_pb2.ImageSize(height=size, width=size),
        resample=pb.RESAMPLE_BILINEAR,
        rescale_factor=1 / 255,
        mean=[0.5, 0.5, 0.5],
        std=[0.5, 0.5, 0.5],
        bound="bit for bit transformers' ViTImageProcessorPil",
    )


def choose(
    choice: Choice, *, own: pb.Preprocessing | None, size: tensor_pb2.ImageSize
) -> pb.Preprocessing | None:
    """The preprocessing of an artifact.

    Args:
        choice: what was asked for.
        own: what the source brings; None where its images are not RGB.
        size: image size of the module.

    Raises:
        InvalidArgumentError: the numbers asked for do not fit the module, or mean nothing.
    """
    if isinstance(choice, str) and choice in ("auto", "none"):
        return own if choice == "auto" else None
    if not isinstance(choice, pb.Preprocessing):
        raise InvalidArgumentError(f"preprocessing is auto, none or a Preprocessing, not {choice!r}")
    if own is None:
        raise InvalidArgumentError("preprocessing gives 3 channels, which the module does not take")
    if choice.size != size:
        given, taken = (f"{item.height} x {item.width}" for item in (choice.size, size))
        raise InvalidArgumentError(f"preprocessing gives {given}, the module takes {taken}")
    numbers = [choice.rescale_factor, *choice.mean, *choice.std]
    if not all(map(math.isfinite, numbers)) or choice.rescale_factor <= 0 or min(choice.std, default=0) <= 0:
        raise InvalidArgumentError("preprocessing needs a positive rescale factor and positive deviations")
    try:
        Preprocessor(choice)
    except ArtifactError as error:
        raise InvalidArgumentError(str(error)) from None
    return choice


def hugging_face(preprocessing: pb.Preprocessing) -> str:
    """The text of preprocessor_config.json, as `ViTImageProcessor.save_pretrained` would mean it."""
    size = preprocessing.size
    config = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(preprocessing.mean),
        "image_processor_type": "ViTImageProcessor",
        "image_std": list(preprocessing.std),
        "resample": _PILLOW[preprocessing.resample],
        "rescale_factor": preprocessing.rescale_factor,
        "size": {"height": size.height, "width": size.width},
    }
    return json.dumps(config, indent=2) + "\n"
