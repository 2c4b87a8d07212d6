"""From RGB pixels to the model's input, under the preprocessing contract of its spec.

`hf-pil` is `transformers`' ViTImageProcessorPil: Pillow's resize on uint8, then
(u * rescale_factor - mean) / std in its order of roundings. `hf-torchvision` is ViTImageProcessor where
torchvision is installed: the resize of `antialias`, then (u - mean / factor) / (std / factor). Both may crop
around the centre. All that follows depends on the byte alone, so it is a table of 256 values a channel: exact
and cheap.
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
from vitral_engine import antialias, crop
from vitral_engine.image import HIGH_DEPTH_RULES
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
    """What two contracts do differently.

    Attributes:
        interpolations: those it has.
        resize: picture, or a box of it, (height, width) and interpolation to uint8 (height, width, 3).
        table: the float32 value of each byte, (3, 256).
        in_front: 1 where an odd number of padded rows has the larger half in front, 0 where behind.
    """

    interpolations: Collection[pb.Resample.ValueType]
    resize: Callable[[Picture, tuple[int, int], pb.Resample.ValueType, Box | None], NDArray[np.uint8]]
    table: Callable[[pb.Preprocessing], NDArray[np.float32]]
    in_front: int


class Preprocessor:
    """One preprocessing contract, ready to apply. Stateless after construction; any thread may call it.

    Args:
        preprocessing: the contract.
        size: height and width of what it makes, where they are not its own; see `crop.resized`.

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
        self._table = self._contract.table(preprocessing)

    def resize(self, rgb: Picture, extent: Extent | None = None) -> NDArray[np.uint8]:
        """RGB pixels (H, W, 3) of any size to uint8 (h, w, 3) of its size, cropped where it crops.

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
        pixels = self._contract.resize(rgb, target, told.resample, None if extent is None else extent.box)
        if not told.HasField("crop_size"):
            return pixels
        rows, columns = self.size or (told.crop_size.height, told.crop_size.width)
        return crop.centre(pixels, rows, columns, in_front=self._contract.in_front)

    def keeps(self, height: int, width: int) -> bool:
        """Whether pixels of this size stay as they are: resized to their own size, and not cropped."""
        told = self.spec
        sized = told.HasField("size") and not told.HasField("crop_size")
        return sized and (height, width) == (self.size or (told.size.height, told.size.width))

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized pixels (..., h, w, 3) to the float32 input (..., 3, h, w)."""
        planes = [table[pixels[..., channel]] for channel, table in enumerate(self._table)]
        return np.stack(planes, axis=-3)


def _check(told: pb.Preprocessing, contract: _Contract) -> None:
    if told.resample == pb.RESAMPLE_UNSPECIFIED:
        raise ArtifactError("the preprocessing names no interpolation")
    if told.resample not in contract.interpolations:
        name = pb.Resample.Name(told.resample).removeprefix("RESAMPLE_").lower()
        raise ArtifactError(f"contract {told.contract} has no {name} interpolation")
    if len(told.mean) != 3 or len(told.std) != 3 or 0 in told.std:
        raise ArtifactError("the preprocessing needs three means and three non-zero standard deviations")
    if told.high_depth not in HIGH_DEPTH_RULES:
        raise ArtifactError(f"unknown rule {told.high_depth!r} for 16-bit pictures")
    crop.check(told)


def _pillow_resize(
    rgb: Picture, size: tuple[int, int], resample: pb.Resample.ValueType, box: Box | None
) -> NDArray[np.uint8]:
    image = rgb if isinstance(rgb, Image.Image) else Image.fromarray(rgb)
    height, width = size
    return np.asarray(image.resize((width, height), _PILLOW[resample], box))


def _torchvision_resize(
    rgb: Picture, size: tuple[int, int], resample: pb.Resample.ValueType, box: Box | None
) -> NDArray[np.uint8]:
    height, width = size
    return antialias.resize(np.asarray(rgb), height=height, width=width, resample=resample, box=box)


def _pillow_table(told: pb.Preprocessing) -> NDArray[np.float32]:
    scaled = (np.arange(256, dtype=np.float64) * told.rescale_factor).astype(np.float32)
    mean, std = _columns(told)
    table: NDArray[np.float32] = (scaled - mean) / std
    return table


def _torchvision_table(told: pb.Preprocessing) -> NDArray[np.float32]:
    levels = np.float32(1.0 / told.rescale_factor)
    mean, std = _columns(told)
    table: NDArray[np.float32] = (np.arange(256, dtype=np.float32) - mean * levels) / (std * levels)
    return table


def _columns(told: pb.Preprocessing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation as (3, 1)."""
    mean, std = (np.array(values, dtype=np.float32)[:, None] for values in (told.mean, told.std))
    return mean, std


CONTRACTS: Mapping[str, _Contract] = MappingProxyType(
    {
        "hf-pil": _Contract(_PILLOW, _pillow_resize, _pillow_table, in_front=1),
        "hf-torchvision": _Contract(antialias.KERNELS, _torchvision_resize, _torchvision_table, in_front=0),
    }
)
"""Every contract by name."""
