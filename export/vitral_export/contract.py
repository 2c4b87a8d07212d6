"""The preprocessing contracts: what each promises, and what numbers it can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from vitral.errors import ArtifactError, InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine.preprocess import Preprocessor

BOUNDS: Mapping[str, str] = MappingProxyType(
    {
        "hf-pil": "bit for bit transformers' ViTImageProcessorPil",
        "hf-torchvision": (
            "bit for bit transformers' ViTImageProcessor over torchvision on x86 CPUs with AVX2, from the "
            "RGB that Pillow decodes; where torchvision resizes in float32 (GPUs; bilinear without AVX2) "
            "6 to 22 % of bilinear bytes differ, by one level"
        ),
    }
)
"""How far each contract may stray from the library it is named after. Its keys are the contracts."""


def stated(preprocessing: pb.Preprocessing, contract: str) -> pb.Preprocessing:
    """The same numbers under this contract, with what it promises.

    Raises:
        InvalidArgumentError: there is no such contract, or it cannot hold the numbers.
    """
    if contract not in BOUNDS:
        known = ", ".join(BOUNDS)
        raise InvalidArgumentError(f"unknown preprocessing contract {contract!r}; known are {known}")
    told = pb.Preprocessing()
    told.CopyFrom(preprocessing)
    told.contract, told.bound = contract, BOUNDS[contract]
    check(told)
    return told


def described(preprocessing: pb.Preprocessing) -> str:
    """A contract and its numbers in one line."""
    told = preprocessing
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
    numbers = [preprocessing.rescale_factor, *preprocessing.mean, *preprocessing.std]
    if not all(map(math.isfinite, numbers)) or min(numbers[0], *preprocessing.std) <= 0:
        raise InvalidArgumentError("preprocessing needs a positive rescale factor and positive deviations")
    try:
        Preprocessor(preprocessing)
    except ArtifactError as error:
        raise InvalidArgumentError(str(error)) from None
