"""Preprocessing that an artifact promises: which one, and its Hugging Face file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias

from vitral import spec as specs
from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine.image import DIVIDE
from vitral_export import contract as contracts
from vitral_export import preprocessor_config, raw_config, timm_config

FILE = preprocessor_config.FILE
"""Name of the Hugging Face file in the version folder."""

Choice: TypeAlias = pb.Preprocessing | str | os.PathLike[str]
"""`auto`: what the source brings; `none`: only `prepared` rows are accepted; a contract of RGB pictures:
what the source brings, under this one; FILE.json: that preprocessor_config.json, under the contract that the
class in it means, or CONTRACT:FILE.json; `timm:FILE.json`: timm's configuration of a model;
`raw-scale:FILE.json`: a scale and an offset for each channel; or one's own numbers."""

OF_THE_SOURCE: tuple[str, ...] = ("auto", *(name for name in contracts.BOUNDS if name != contracts.RAW))
"""Choices whose numbers are those that the source brings."""

HighDepth: TypeAlias = Literal["refuse", "scale"]
"""16-bit grey pictures: `refuse` them, or `scale` them to 8 bits by dividing by 257."""

HIGH_DEPTH: tuple[HighDepth, ...] = ("refuse", "scale")
"""Every rule for 16-bit pictures, the default first."""


def default(size: int) -> pb.Preprocessing:
    """What `ViTImageProcessorPil` does by default, for square images of this size."""
    return preprocessor_config.read({"size": size}, contract="hf-pil")


def choose(
    choice: Choice,
    *,
    own: pb.Preprocessing | None,
    size: tensor_pb2.ImageSize,
    channels: int = 3,
    high_depth: str = "refuse",
) -> pb.Preprocessing | None:
    """The preprocessing of an artifact.

    Args:
        choice: what was asked for.
        own: what the source brings; None where its images are not RGB.
        size: image size of the module.
        channels: of its images; 0 where it takes tokens.
        high_depth: `refuse` or `scale`, for 16-bit grey pictures.

    Raises:
        InvalidArgumentError: the numbers asked for do not fit the module, or mean nothing.
    """
    if high_depth not in HIGH_DEPTH:
        raise InvalidArgumentError(f"high depth is {' or '.join(HIGH_DEPTH)}, not {high_depth!r}")
    found = _found(choice, own, size, channels)
    if high_depth == "scale" and (found is None or found.contract == contracts.RAW):
        what = "no pictures" if found is None else "values as they are"
        raise InvalidArgumentError(f"16-bit pictures cannot be scaled: the model takes {what}")
    if found is None:
        return None
    chosen = pb.Preprocessing()
    chosen.CopyFrom(found)
    if high_depth == "scale":
        chosen.high_depth = DIVIDE
    contracts.check(chosen)
    given = specs.input_size(chosen)
    if given != size:
        said, taken = (f"{item.height} x {item.width}" for item in (given, size))
        raise InvalidArgumentError(f"preprocessing gives {said}, the module takes {taken}")
    return chosen


def hugging_face(preprocessing: pb.Preprocessing) -> str | None:
    """The text of preprocessor_config.json; None where no class of transformers does the same.

    See `preprocessor_config.write`.
    """
    return preprocessor_config.write(preprocessing) if preprocessing.contract.startswith("hf-") else None


def _found(
    choice: Choice, own: pb.Preprocessing | None, size: tensor_pb2.ImageSize, channels: int
) -> pb.Preprocessing | None:
    if choice == "none":
        return None
    if choice == "auto":
        return own
    if not isinstance(choice, pb.Preprocessing | str | os.PathLike):
        raise InvalidArgumentError(f"preprocessing is {_KNOWN}, not {choice!r}")
    if isinstance(choice, pb.Preprocessing):
        if choice.contract == contracts.RAW:
            if len(choice.scale) != channels:
                raise InvalidArgumentError(
                    f"preprocessing has {len(choice.scale)} scales, the module has {channels} channels"
                )
            return choice
    elif choice == contracts.RAW:
        raise InvalidArgumentError(f"{contracts.RAW} needs its numbers: {contracts.RAW}:FILE.json")
    elif os.fspath(choice).startswith(f"{contracts.RAW}:"):
        if not channels:
            raise InvalidArgumentError(f"{contracts.RAW} is of images, and the module takes tokens")
        file = os.fspath(choice).partition(":")[2]
        return raw_config.read(Path(file), channels=channels, size=size)
    if own is None:
        hint = f"; {contracts.RAW}:FILE.json gives any number" if channels else ""
        raise InvalidArgumentError(f"preprocessing gives 3 channels, which the module does not take{hint}")
    if isinstance(choice, pb.Preprocessing):
        return choice
    if choice in contracts.BOUNDS:
        return contracts.stated(own, os.fspath(choice))
    return _from_file(os.fspath(choice))


def _from_file(choice: str) -> pb.Preprocessing:
    contract, colon, file = choice.partition(":")
    if colon and contract == timm_config.CONTRACT:
        return timm_config.from_timm(preprocessor_config.parsed(Path(file)))
    if colon and contract in contracts.BOUNDS:
        return preprocessor_config.read(file, contract=contract)
    if not choice.endswith(".json"):
        raise InvalidArgumentError(f"preprocessing is {_KNOWN}, not {choice!r}")
    return preprocessor_config.read(choice)


_KNOWN = f"{', '.join(OF_THE_SOURCE)}, none, [CONTRACT:]FILE.json or a Preprocessing"
