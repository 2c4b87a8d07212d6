"""JPEGs of camera size: cuts of real photographs, enlarged, with the grain of a sensor or without."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageChops

SIZES = {"2 MP": (1600, 1200), "5 MP": (2560, 1920), "12 MP": (4000, 3000)}
"""Width and height by name."""

GRAIN = 4.0
"""Standard deviation of the grain in levels: it gives files the bytes a pixel that cameras give them."""

_COLOUR = ("rocket.jpg", "retina.jpg", "hubble_deep_field.jpg", "astronaut.png", "coffee.png", "chelsea.png")
_MORE = ("motorcycle_left.png", "ihc.png", "camera.png", "moon.png", "coins.png", "brick.png", "grass.png")
_SEED, _MIDDLE = 0, 128


@dataclass(frozen=True)
class Kind:
    """What JPEGs are drawn.

    Attributes:
        size: width and height.
        grain: standard deviation of the noise in levels; 0 for none.
        quality: of the JPEG.
        progressive: whether it comes in several scans.
    """

    size: tuple[int, int]
    grain: float = GRAIN
    quality: int = 90
    progressive: bool = False


class Camera:
    """Takes pictures: another cut each time, the same ones in each run."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._choice = random.Random(_SEED)  # noqa: S311
        self._sources = [_photograph(name) for name in (*_COLOUR, *_MORE)]
        width, height = kind.size
        noise = np.random.default_rng(_SEED).normal(_MIDDLE, kind.grain, (height, width)).round()
        self._grain = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).convert("RGB")

    def take(self) -> bytes:
        """The next JPEG: a part of at least half of a photograph's sides, enlarged."""
        width, height = self._kind.size
        source = self._choice.choice(self._sources)
        share = self._choice.uniform(0.5, 1.0) * min(source.width, source.height * width / height)
        part = (share, share * height / width)
        left = self._choice.uniform(0, source.width - part[0])
        top = self._choice.uniform(0, source.height - part[1])
        box = (left, top, left + part[0], top + part[1])
        picture = source.resize(self._kind.size, Image.Resampling.LANCZOS, box=box)
        if self._kind.grain:
            by = self._choice.randrange(width), self._choice.randrange(height)
            picture = ImageChops.add(picture, ImageChops.offset(self._grain, *by), 1.0, -_MIDDLE)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=self._kind.quality, progressive=self._kind.progressive)
        return file.getvalue()


def _photograph(name: str) -> Image.Image:
    with Image.open(Path(skimage.__file__).parent / "data" / name) as opened:
        return opened.convert("RGB")
