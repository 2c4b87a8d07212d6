"""The image processors of transformers that are known, with the defaults that each class has for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from vitral.errors import InvalidArgumentError

_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_BILINEAR, _BICUBIC = 2, 3
_SIDES = MappingProxyType({"height": 224, "width": 224})
_EDGE = MappingProxyType({"shortest_edge": 224})

_COMMON: Mapping[str, Any] = MappingProxyType(
    {
        "size": _SIDES,
        "resample": _BILINEAR,
        "image_mean": _HALF,
        "image_std": _HALF,
        "rescale_factor": 1 / 255,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_center_crop": False,
        "do_convert_rgb": True,
        "do_pad": False,
        "default_to_square": True,
        "crop_size": None,
    }
)
"""What is alike for most, and every key that says something about pixels."""

_CLIP: Mapping[str, Any] = MappingProxyType(
    {
        "size": _EDGE,
        "resample": _BICUBIC,
        "image_mean": _OPENAI[0],
        "image_std": _OPENAI[1],
        "do_center_crop": True,
        "default_to_square": False,
        "crop_size": _SIDES,
    }
)


@dataclass(frozen=True)
class ImageProcessor:
    """One class of transformers, on Pillow and on torchvision.

    Attributes:
        name: of the class, without `Pil` or `Fast`.
        defaults: every key of preprocessor_config.json that says something about pixels.
        without_effect: keys of its own that pixels do not depend on.
        contracts: those that it can mean, the one first that it means where none is asked for.
    """

    name: str
    defaults: Mapping[str, Any]
    without_effect: tuple[str, ...] = ()
    contracts: tuple[str, ...] = ("hf-pil", "hf-torchvision")

    def written(self, contract: str) -> str:
        """The class as preprocessor_config.json names it under this contract."""
        return f"{self.name}{'Pil' if contract == 'hf-pil' else 'Fast'}"

    def bound(self, contract: str) -> str:
        """How far the contract may stray from this class."""
        return _BOUNDS[contract].format(name=self.name)


_BOUNDS: Mapping[str, str] = MappingProxyType(
    {
        "hf-pil": "bit for bit transformers' {name}Pil",
        "hf-torchvision": (
            "bit for bit transformers' {name} over torchvision on x86 CPUs with AVX2, from the "
            "RGB that Pillow decodes; where torchvision resizes in float32 (GPUs; bilinear without AVX2) "
            "6 to 22 % of bilinear bytes differ, by one level"
        ),
        "hf-dinov3": (
            "transformers' {name} over torchvision, from the RGB that Pillow decodes: bit for bit on x86 "
            "CPUs with AVX2, elsewhere within 2e-6"
        ),
    }
)


def _processor(name: str, own: Mapping[str, Any], **more: Any) -> ImageProcessor:
    return ImageProcessor(name, MappingProxyType({**_COMMON, **own}), **more)


_KNOWN = (
    _processor("ViTImageProcessor", {}),
    _processor(
        "DeiTImageProcessor",
        {
            "size": {"height": 256, "width": 256},
            "resample": _BICUBIC,
            "do_center_crop": True,
            "crop_size": _SIDES,
        },
    ),
    _processor(
        "BeitImageProcessor",
        {"resample": _BICUBIC, "crop_size": _SIDES},
        without_effect=("do_reduce_labels", "reduce_labels"),
    ),
    _processor("BitImageProcessor", _CLIP),
    _processor("CLIPImageProcessor", _CLIP),
    _processor("SiglipImageProcessor", {"resample": _BICUBIC, "default_to_square": False}),
    _processor(
        "DINOv3ViTImageProcessor",
        {"image_mean": _IMAGENET[0], "image_std": _IMAGENET[1]},
        contracts=("hf-dinov3",),
    ),
)

IMAGE_PROCESSORS: Mapping[str, ImageProcessor] = MappingProxyType({item.name: item for item in _KNOWN})
"""Every one by the name of its class."""

DEFAULT = IMAGE_PROCESSORS["ViTImageProcessor"]
"""What a file that names no class is read as."""


def named(kind: str) -> tuple[ImageProcessor, str]:
    """The class that a file names, and the contract it means there.

    A plain name was Pillow's in transformers 4, and in transformers 5 is whichever backend is installed: the
    project's default is Pillow.

    Raises:
        InvalidArgumentError: it is none of those known.
    """
    base = kind.replace("FeatureExtractor", "ImageProcessor")
    on_torchvision = base.endswith("Fast")
    found = IMAGE_PROCESSORS.get(base.removesuffix("Fast").removesuffix("Pil"))
    if found is None:
        known = ", ".join(IMAGE_PROCESSORS)
        raise InvalidArgumentError(f"{kind!r} is no image processor of a ViT; known are {known}")
    return found, found.contracts[-1 if on_torchvision else 0]


def of_bound(contract: str, bound: str) -> ImageProcessor:
    """The class whose bound this is; the default one where it is no one's."""
    if contract not in _BOUNDS:
        return DEFAULT
    fitting = (item for item in _KNOWN if contract in item.contracts and item.bound(contract) == bound)
    return next(fitting, next(item for item in _KNOWN if contract in item.contracts))
