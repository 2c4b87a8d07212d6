"""From RGB pixels to the model's input, under the preprocessing contract of its spec.

`hf-pil` is what `transformers`' image processors on Pillow do: Pillow's resize on uint8, then
(u * rescale_factor - mean) / std in its order of roundings. `hf-torchvision` is the same where torchvision is
installed: the resize of `antialias`, then (u - mean / factor) / (std / factor). `timm` is timm's evaluation
transform: Pillow's resize, torchvision's crop, (u / 255 - mean) / std. Two resize in float32, so that their
pixels are no bytes any more: `google-tf`, TensorFlow's bilinear and (x - mean) / std, and `hf-dinov3`, which
rescales before it resizes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitral.dynamic import Size
from vitral.errors import ArtifactError
from vitral.v1 import model_pb2 as pb
from vitral_engine import antialias, crop, float_resize, normalise
from vitral_engine.image import HIGH_DEPTH_RULES
from vitral_engine.normalise import Normalise, Pixels
from vitral_engine.scaled import Box, Extent

Picture = Image.Image | NDArray[np.uint8]

_PILLOW: Mapping[pb.Resample.ValueType, Image.Resampling] = MappingProxyType(
    {
        pb.RESAMPLE_NEAREST: Image.Resampling.NEAREST,
        pb.RESAMPLE_BILINEAR: Image.Resampling.BILINEAR,
        pb.RESAMPLE_BICUBIC: Image.Resampling.BICUBIC,
        pb.RESAMPLE_LANCZOS: Image.Resampling.LANCZOS,
        pb.RESAMPLE_BOX: Image.Resampling.BOX,
        pb.RESAMPLE_HAMMING: Image.Resampling.HAMMING,
    }
)


@dataclass(frozen=True)
class _Contract:
    """What contracts do differently.

    Attributes:
        interpolations: those it has.
        resize: picture, or a box of it, to pixels (height, width, 3).
        normalise: what follows the resize.
        rule: of the crop around the centre; None where it has none.
        levels: the float of each byte after the resize, (256,); None where pixels stay uint8.
        factor: the only rescale factor it has; None for any.
    """

    interpolations: Collection[pb.Resample.ValueType]
    resize: Callable[[pb.Preprocessing, Picture, tuple[int, int], Box | None], Pixels]
    normalise: Callable[[pb.Preprocessing], Normalise]
    rule: crop.Rule | None
    levels: Callable[[pb.Preprocessing], NDArray[np.float32]] | None = None
    factor: float | None = None


class Preprocessor:
    """One preprocessing contract, ready to apply. Stateless after construction; any thread may call it.

    Args:
        preprocessing: the contract.
        size: height and width of what it makes, where they are not its own; see `crop.resized`.

    Attributes:
        spec: its numbers.
        size: the same.
        in_bytes: whether pixels are uint8 after the resize, and float32 otherwise.
        normalise: resized pixels (..., h, w, 3) to the float32 input (..., 3, h, w).

    Raises:
        ArtifactError: the contract is none that this version knows, or its numbers do not fit RGB.
    """

    def __init__(self, preprocessing: pb.Preprocessing, *, size: Size | None = None) -> None:
        self.spec, self.size = preprocessing, size
        if preprocessing.contract not in CONTRACTS:
            known = ", ".join(CONTRACTS)
            raise ArtifactError(
                f"unknown preprocessing contract {preprocessing.contract!r}; known are {known}"
            )
        self._contract = CONTRACTS[preprocessing.contract]
        _check(preprocessing, self._contract)
        self.in_bytes = self._contract.levels is None
        self.normalise = self._contract.normalise(preprocessing)

    def resize(self, rgb: Picture, extent: Extent | None = None) -> Pixels:
        """RGB pixels (H, W, 3) of any size to (h, w, 3) of its size, cropped where it crops.

        Args:
            rgb: the picture.
            extent: of the picture, where it was decoded at a fraction of its sides.

        Raises:
            ValueError: the picture is so long that its resized form is too large.
        """
        told = self.spec
        whole = rgb if extent is None else extent
        height, width = whole.shape[:2] if isinstance(whole, np.ndarray) else (whole.height, whole.width)
        target = crop.resized(told, height=height, width=width, size=self.size)
        if isinstance(rgb, np.ndarray) and self.keeps(height, width):
            return rgb
        pixels = self._contract.resize(told, rgb, target, None if extent is None else extent.box)
        if self._contract.rule is None or not told.HasField("crop_size"):
            return pixels
        rows, columns = self.size or (told.crop_size.height, told.crop_size.width)
        return crop.centre(pixels, rows, columns, rule=self._contract.rule)

    def keeps(self, height: int, width: int) -> bool:
        """Whether pixels of this size stay as they are: uint8, resized to their own size, and not cropped."""
        told = self.spec
        sized = self.in_bytes and told.HasField("size") and not told.HasField("crop_size")
        return sized and (height, width) == (self.size or (told.size.height, told.size.width))

    def as_resized(self, pixels: NDArray[np.uint8]) -> Pixels:
        """Bytes (..., h, w, 3) of the contract's own size as its resize would give them."""
        levels = self._contract.levels
        return pixels if levels is None else levels(self.spec)[pixels]

    def shown(self, pixels: Pixels) -> NDArray[np.uint8]:
        """Resized pixels as people look at them: the nearest bytes."""
        if pixels.dtype == np.uint8:
            return pixels.astype(np.uint8, copy=False)
        assert self._contract.levels is not None
        white = self._contract.levels(self.spec)[255]
        found: NDArray[np.uint8] = np.rint(np.clip(pixels * (255 / white), 0, 255)).astype(np.uint8)
        return found


def _check(told: pb.Preprocessing, contract: _Contract) -> None:
    if told.resample == pb.RESAMPLE_UNSPECIFIED:
        raise ArtifactError("the preprocessing names no interpolation")
    if told.resample not in contract.interpolations:
        name = pb.Resample.Name(told.resample).removeprefix("RESAMPLE_").lower()
        raise ArtifactError(f"contract {told.contract} has no {name} interpolation")
    if contract.factor is not None and told.rescale_factor != contract.factor:
        own = f"{contract.factor:.6g}, not {told.rescale_factor:.6g}"
        raise ArtifactError(f"contract {told.contract} has the rescale factor {own}")
    if len(told.mean) != 3 or len(told.std) != 3 or 0 in told.std:
        raise ArtifactError("the preprocessing needs three means and three non-zero standard deviations")
    if told.high_depth not in HIGH_DEPTH_RULES:
        raise ArtifactError(f"unknown rule {told.high_depth!r} for 16-bit pictures")
    if contract.rule is None and told.HasField("crop_size"):
        raise ArtifactError(f"contract {told.contract} crops nothing")
    crop.check(told)


def _pillow_resize(
    told: pb.Preprocessing, rgb: Picture, size: tuple[int, int], box: Box | None
) -> NDArray[np.uint8]:
    image = rgb if isinstance(rgb, Image.Image) else Image.fromarray(rgb)
    height, width = size
    return np.asarray(image.resize((width, height), _PILLOW[told.resample], box))


def _torchvision_resize(
    told: pb.Preprocessing, rgb: Picture, size: tuple[int, int], box: Box | None
) -> NDArray[np.uint8]:
    height, width = size
    return antialias.resize(np.asarray(rgb), height=height, width=width, resample=told.resample, box=box)


def _tensorflow_resize(
    told: pb.Preprocessing, rgb: Picture, size: tuple[int, int], box: Box | None
) -> NDArray[np.float32]:
    height, width = size
    return float_resize.neighbours(_whole(rgb, box), height=height, width=width)


def _dinov3_resize(
    told: pb.Preprocessing, rgb: Picture, size: tuple[int, int], box: Box | None
) -> NDArray[np.float32]:
    height, width = size
    return float_resize.antialiased(
        _whole(rgb, box), _rescaled(told), height=height, width=width, resample=told.resample
    )


def _whole(rgb: Picture, box: Box | None) -> NDArray[np.uint8]:
    assert box is None, "resized in float32, which is never done of a part"
    return np.asarray(rgb)


def _unscaled(told: pb.Preprocessing) -> NDArray[np.float32]:
    return np.arange(256, dtype=np.float32)


def _rescaled(told: pb.Preprocessing) -> NDArray[np.float32]:
    levels: NDArray[np.float32] = np.arange(256, dtype=np.float32) * np.float32(told.rescale_factor)
    return levels


CONTRACTS: Mapping[str, _Contract] = MappingProxyType(
    {
        "hf-pil": _Contract(_PILLOW, _pillow_resize, normalise.pillow, crop.DOWN_IN_FRONT),
        "hf-torchvision": _Contract(
            antialias.KERNELS, _torchvision_resize, normalise.torchvision, crop.DOWN_BEHIND
        ),
        "timm": _Contract(_PILLOW, _pillow_resize, normalise.quotient, crop.EVEN_BEHIND, factor=1 / 255),
        "google-tf": _Contract(
            (pb.RESAMPLE_BILINEAR,), _tensorflow_resize, normalise.plain, None, levels=_unscaled, factor=1.0
        ),
        "hf-dinov3": _Contract(
            float_resize.KERNELS, _dinov3_resize, normalise.plain, crop.DOWN_BEHIND, levels=_rescaled
        ),
    }
)
"""Every contract of RGB pictures by name."""
