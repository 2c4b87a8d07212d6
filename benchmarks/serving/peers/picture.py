"""From pictures to a model's input as people write it: Pillow, NumPy and preprocessor_config.json.

The peers' servers share it, in environments where nothing of vitral is installed.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Preprocessor:
    """What ViTImageProcessor does with a picture, without its overhead.

    Attributes:
        size: height and width that the model takes.
        resample: Pillow's number of the interpolation.
        scale: factor of each channel's bytes.
        offset: what is added then.
    """

    size: tuple[int, int]
    resample: int
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]

    @classmethod
    def read(cls, version: Path) -> Preprocessor:
        """Of a version folder."""
        told = json.loads((version / "preprocessor_config.json").read_text(encoding="utf-8"))
        if told.get("do_center_crop"):
            raise SystemExit(f"{version}: the peers crop no pictures")
        mean, std = (np.array(told[key], np.float32) for key in ("image_mean", "image_std"))
        size = (told["size"]["height"], told["size"]["width"])
        return cls(size, told["resample"], np.float32(told["rescale_factor"]) / std, -mean / std)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """An image file to uint8 (h, w, 3) of the model's size."""
        height, width = self.size
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return np.asarray(image.resize((width, height), self.resample))

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (..., h, w, 3) to float32 (..., 3, h, w)."""
        values = np.moveaxis(pixels * self.scale + self.offset, -1, -3)
        return np.ascontiguousarray(values)


def newest(model: Path) -> Path:
    """The version folder with the highest number."""
    numbers = [int(path.name) for path in model.iterdir() if path.name.isdigit()]
    return model / str(max(numbers))
