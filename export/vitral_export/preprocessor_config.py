"""Hugging Face's preprocessor_config.json of a ViT, read and written.

What is read means what the class that it names makes of it in transformers 5: a key that is absent is that
class's default, and a switch that is null is off. What would change pixels and cannot be honoured is refused
by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export import contract as contracts
from vitral_export import image_processors

FILE = "preprocessor_config.json"
"""Name of the file in a checkpoint and in a version folder."""

# Pillow's numbers, which the file uses.
_RESAMPLE: Mapping[int, pb.Resample.ValueType] = MappingProxyType(
    {
        0: pb.RESAMPLE_NEAREST,
        1: pb.RESAMPLE_LANCZOS,
        2: pb.RESAMPLE_BILINEAR,
        3: pb.RESAMPLE_BICUBIC,
        4: pb.RESAMPLE_BOX,
        5: pb.RESAMPLE_HAMMING,
    }
)

_FLAGS = tuple(key for key, value in image_processors.DEFAULT.defaults.items() if isinstance(value, bool))
_NAMES = ("image_processor_type", "feature_extractor_type")
# They name other classes, or say how arrays are laid out, grouped and handed back.
_WITHOUT_EFFECT = (
    *_NAMES,
    "processor_class",
    "_valid_processor_keys",
    "_valid_kwargs_names",
    "data_format",
    "device",
    "disable_grouping",
    "image_seq_length",
    "input_data_format",
    "pad_size",
    "return_tensors",
)


def read(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    contract: str | None = None,
    unnamed: str = image_processors.DEFAULT.name,
) -> pb.Preprocessing:
    """The preprocessing that a file, its folder, or its parsed content describes.

    Args:
        source: a path to the file or to the folder it is in, or the content.
        contract: `hf-pil`, say; None for the one that the class named in the file means.
        unnamed: the class that a file means that names none.

    Raises:
        InvalidArgumentError: the file cannot be read, or asks for what cannot be honoured, by name.
    """
    config = source if isinstance(source, Mapping) else parsed(Path(source))
    kind = next((config[name] for name in _NAMES if config.get(name) is not None), unnamed)
    try:
        processor, meant = image_processors.named(str(kind))
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{FILE}: {error}") from None
    # What is off or null does nothing, whatever it is.
    used = {key for key, value in config.items() if value is not None and value is not False}
    known = {*processor.defaults, *processor.without_effect, *_WITHOUT_EFFECT}
    if unknown := sorted(used - known):
        raise InvalidArgumentError(f"{FILE}: {', '.join(unknown)} cannot be honoured")
    given = {key: config[key] for key in processor.defaults if key in config}
    numbers, wanted = _preprocessing({**processor.defaults, **given}), contract or meant
    if wanted == "hf-dinov3" and not {**processor.defaults, **given}["do_rescale"]:
        raise InvalidArgumentError(
            f"{FILE}: do_rescale is false: contract {wanted} rescales before it resizes"
        )
    return contracts.stated(numbers, wanted, processor=processor)


def write(preprocessing: pb.Preprocessing) -> str:
    """The text of the file, which transformers loads and which `read` turns into the same again.

    It names the class that the numbers were read from, and all of them. `AutoImageProcessor` takes
    torchvision wherever it is installed, whatever the file names: for `hf-pil` load it with the class itself,
    or with `backend="pil"`.
    """
    told = preprocessing
    processor = image_processors.of_bound(told.contract, told.bound)
    numbers = {value: number for number, value in _RESAMPLE.items()}
    config: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(preprocessing.mean),
        "image_processor_type": processor.written(told.contract),
        "image_std": list(preprocessing.std),
        "resample": numbers[preprocessing.resample],
        "rescale_factor": preprocessing.rescale_factor,
        "size": {"height": preprocessing.size.height, "width": preprocessing.size.width},
    }
    if preprocessing.shortest_edge:
        config["size"] = {"shortest_edge": preprocessing.shortest_edge}
    if processor.defaults["do_center_crop"]:
        config["do_center_crop"] = False
    if preprocessing.HasField("crop_size"):
        crop = preprocessing.crop_size
        config |= {"do_center_crop": True, "crop_size": {"height": crop.height, "width": crop.width}}
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def parsed(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file, or in the preprocessor_config.json of a folder.

    Raises:
        InvalidArgumentError: there is none.
    """
    file = path / FILE if path.is_dir() else path
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise InvalidArgumentError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise InvalidArgumentError(f"{file} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise InvalidArgumentError(f"{file} holds no JSON object")
    return config


def _preprocessing(config: Mapping[str, Any]) -> pb.Preprocessing:
    flags = {key: _flag(config, key) for key in _FLAGS}
    _refuse(flags)
    normalised = flags["do_normalize"]
    told = pb.Preprocessing(
        resample=_resample(config["resample"]),
        rescale_factor=_number(config, "rescale_factor") if flags["do_rescale"] else 1.0,
        mean=_channels(config, "image_mean") if normalised else [0.0] * 3,
        std=_channels(config, "image_std") if normalised else [1.0] * 3,
    )
    size = _size(config, "size", square=flags["default_to_square"])
    if isinstance(size, int):
        told.shortest_edge = size
    else:
        told.size.CopyFrom(size)
    if flags["do_center_crop"]:
        crop = _size(config, "crop_size", square=True)
        if isinstance(crop, int):
            raise InvalidArgumentError(f"{FILE}: crop_size needs a height and a width")
        told.crop_size.CopyFrom(crop)
    return told


def _refuse(flags: Mapping[str, bool]) -> None:
    """Refuses what the flags ask for and no contract does."""
    problems = {
        "do_resize is false: pictures of other sizes could not be embedded; send those of the model's size "
        "as `prepared` rows instead": not flags["do_resize"],
        "do_convert_rgb is false: pictures are always converted to RGB": not flags["do_convert_rgb"],
        "do_pad is true: padding is not done": flags["do_pad"],
    }
    for message, wrong in problems.items():
        if wrong:
            raise InvalidArgumentError(f"{FILE}: {message}")


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config[key]
    if value is None:
        return key == "do_convert_rgb"  # a ViT's own default: pictures are RGB by the time they come to it
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{FILE}: {key} is true or false, not {value!r}")
    return value


def _resample(value: object) -> pb.Resample.ValueType:
    if type(value) is not int or value not in _RESAMPLE:
        raise InvalidArgumentError(f"{FILE}: resample is a number from 0 to 5, not {value!r}")
    return _RESAMPLE[value]


def _number(config: Mapping[str, Any], key: str) -> float:
    value = config[key]
    if type(value) not in (int, float):
        raise InvalidArgumentError(f"{FILE}: {key} is a number, not {value!r}")
    return float(value)


def _channels(config: Mapping[str, Any], key: str) -> list[float]:
    """One number for each of three channels; a single one is for all of them."""
    value = config[key]
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3 or any(type(item) not in (int, float) for item in values):
        raise InvalidArgumentError(f"{FILE}: {key} is a number or three, not {value!r}")
    return [float(item) for item in values]


def _size(config: Mapping[str, Any], key: str, *, square: bool) -> tensor_pb2.ImageSize | int:
    """Height and width, or the shortest edge alone."""
    value = config[key]
    if isinstance(value, list | tuple) and len(value) == 2:
        value = dict(zip(("height", "width"), value, strict=True))
    elif type(value) is int:
        value = {"height": value, "width": value} if square else {"shortest_edge": value}
    numbers = list(value.values()) if isinstance(value, Mapping) else []
    if not numbers or any(type(number) is not int or not 0 < number < 1 << 16 for number in numbers):
        raise InvalidArgumentError(f"{FILE}: {key} {value!r} is no height and width")
    if set(value) == {"shortest_edge"}:
        return int(value["shortest_edge"])
    if set(value) != {"height", "width"}:
        raise InvalidArgumentError(f"{FILE}: {key} by {', '.join(sorted(value))} cannot be honoured")
    return tensor_pb2.ImageSize(height=value["height"], width=value["width"])
