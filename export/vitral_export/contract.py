"""The preprocessing contracts: what each promises, and what numbers it can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from vitral import spec as specs
from vitral.errors import ArtifactError, InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine import raw_scale
from vitral_engine.preprocess import Preprocessor
from vitral_export.image_processors import DEFAULT, ImageProcessor, of_bound

RAW = raw_scale.CONTRACT
"""The contract of values that are no RGB pictures."""

BOUNDS: Mapping[str, str] = MappingProxyType(
    {
        "hf-pil": DEFAULT.bound("hf-pil"),
        "hf-torchvision": DEFAULT.bound("hf-torchvision"),
        "hf-dinov3": of_bound("hf-dinov3", "").bound("hf-dinov3"),
        "timm": (
            "bit for bit timm's evaluation transform (create_transform, no prefetcher) on Pillow, from the "
            "RGB that Pillow decodes"
        ),
        "google-tf": (
            "bit for bit tf.image.resize and (x - 127.5) / 127.5 in float32 on x86 CPUs, from the RGB that "
            "Pillow decodes; that is TensorFlow's with dct_method INTEGER_ACCURATE, its default gives 54 "
            "to 69 % of a JPEG's bytes other levels, by 16 at most"
        ),
        RAW: "exact: x = value * scale + offset in float32, rounded after each",
    }
)
"""How far each contract may stray from the library it is named after. Its keys are the contracts."""

IN_FLOAT: Mapping[str, str] = MappingProxyType(
    {
        "google-tf": "it resizes in float32",
        "hf-dinov3": "it rescales before it resizes, in float32",
        RAW: "it takes values of any scale",
    }
)
"""Contracts whose pixels are not uint8 after the resize, and why."""


def stated(
    preprocessing: pb.Preprocessing, contract: str, *, processor: ImageProcessor | None = None
) -> pb.Preprocessing:
    """The same numbers under this contract, with what it promises.

    `google-tf` has numbers of its own: of those given it keeps the size alone.

    Args:
        preprocessing: the numbers.
        contract: one of `BOUNDS`.
        processor: the class of transformers that means them; None: the one they were read from.

    Raises:
        InvalidArgumentError: there is no such contract, or it cannot hold the numbers.
    """
    if contract not in BOUNDS:
        known = ", ".join(BOUNDS)
        raise InvalidArgumentError(f"unknown preprocessing contract {contract!r}; known are {known}")
    if contract == "google-tf":
        size = specs.input_size(preprocessing)
        return google_tf(size.height, size.width, high_depth=preprocessing.high_depth)
    told = pb.Preprocessing()
    told.CopyFrom(preprocessing)
    meant = processor or of_bound(preprocessing.contract, preprocessing.bound)
    told.contract = contract
    told.bound = meant.bound(contract) if contract in meant.contracts else BOUNDS[contract]
    check(told)
    return told


def google_tf(height: int, width: int, *, high_depth: str = "") -> pb.Preprocessing:
    """What Google's vision_transformer does: bilinear without antialias, then (x - 127.5) / 127.5.

    Raises:
        InvalidArgumentError: the size is none.
    """
    told = pb.Preprocessing(
        contract="google-tf",
        size=tensor_pb2.ImageSize(height=height, width=width),
        resample=pb.RESAMPLE_BILINEAR,
        rescale_factor=1.0,
        mean=[127.5] * 3,
        std=[127.5] * 3,
        bound=BOUNDS["google-tf"],
        high_depth=high_depth,
    )
    check(told)
    return told


def no_uint8(preprocessing: pb.Preprocessing) -> str:
    """Why there can be no graph that takes uint8 pixels, in words; empty where there can."""
    why = IN_FLOAT.get(preprocessing.contract, "")
    return f"pixels of contract {preprocessing.contract} are not uint8: {why}" if why else ""


def described(preprocessing: pb.Preprocessing) -> str:
    """A contract and its numbers in one line."""
    told = preprocessing
    if told.contract == RAW:
        return f"{RAW}, {_size(told.size)}, x {list(told.scale)}, + {list(told.offset)}"
    name = pb.Resample.Name(told.resample).removeprefix("RESAMPLE_").lower()
    edge = f"shortest edge {told.shortest_edge}"
    parts = [told.contract, f"{edge if told.shortest_edge else _size(told.size)} {name}"]
    if told.HasField("crop_size"):
        parts.append(f"centre crop {_size(told.crop_size)}")
    parts += [f"x {told.rescale_factor:.6g}", f"mean {list(told.mean)}", f"std {list(told.std)}"]
    if told.high_depth:
        parts.append(f"16-bit grey {told.high_depth}")
    return ", ".join(parts)


def _size(size: tensor_pb2.ImageSize) -> str:
    return f"{size.height} x {size.width}"


def check(preprocessing: pb.Preprocessing) -> None:
    """Refuses numbers that the engine could not serve, or that mean nothing.

    Raises:
        InvalidArgumentError: with what is wrong.
    """
    try:
        if preprocessing.contract == RAW:
            raw_scale.check(preprocessing)
            return
        numbers = [preprocessing.rescale_factor, *preprocessing.mean, *preprocessing.std]
        if not all(map(math.isfinite, numbers)) or min(numbers[0], *preprocessing.std) <= 0:
            message = "preprocessing needs a positive rescale factor and positive deviations"
            raise InvalidArgumentError(message)
        Preprocessor(preprocessing)
    except ArtifactError as error:
        raise InvalidArgumentError(str(error)) from None
