"""Photographs of mixed sizes, cut from those that scikit-image installs."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import skimage
from PIL import Image

COUNT = 220
"""Different pictures: about one shard of ViT-B's patches in float16."""

_NAMES = ("rocket.jpg", "retina.jpg", "hubble_deep_field.jpg", "astronaut.png", "coffee.png", "chelsea.png")
SIZES = ((320, 240), (375, 500), (500, 333), (500, 375), (640, 480), (800, 600), (1024, 768), (1280, 960))
_SEED = 0


def draw(folder: Path, *, copies: int) -> list[Path]:
    """Writes the JPEGs, each in so many copies that stand together; the paths in the order of their names."""
    folder.mkdir()
    choice = random.Random(_SEED)  # noqa: S311
    sources, paths = photographs(), []
    for index in range(COUNT):
        path = folder / f"{index:04}-0.jpg"
        picture = cut(choice.choice(sources), choice.choice(SIZES), choice)
        picture.save(path, "JPEG", quality=choice.choice((75, 85, 90, 95)))
        paths.append(path)
        for copy in range(1, copies):
            paths.append(path.with_name(f"{index:04}-{copy}.jpg"))
            shutil.copyfile(path, paths[-1])
    return paths


def photographs() -> list[Image.Image]:
    """The photographs that are cut, RGB."""
    sources = []
    for name in _NAMES:
        with Image.open(Path(skimage.__file__).parent / "data" / name) as opened:
            sources.append(opened.convert("RGB"))
    return sources


def cut(source: Image.Image, size: tuple[int, int], choice: random.Random) -> Image.Image:
    """A random part of at least half of a photograph's sides, in this size."""
    share = choice.uniform(0.5, 1.0)
    width, height = round(source.width * share), round(source.height * share)
    left = choice.randint(0, source.width - width)
    top = choice.randint(0, source.height - height)
    box = (left, top, left + width, top + height)
    return source.resize(size, Image.Resampling.LANCZOS, box=box)
