"""The pictures of a workload: real photographs, so many and so different that no cache helps."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.serving.way import Picture
from benchmarks.serving.workload import Workload

COUNT = 48
"""Different pictures of a workload."""

LARGE = 4_000_000
"""Pixels from which on a picture takes long to draw and to decode."""

FEW = 6
"""Different pictures of a workload of such."""

QUALITY = 90
_PIXELS = "pixels.npy"
_SEED = 0


def draw(folder: Path, workload: Workload) -> Path:
    """Writes a workload's pictures into a folder below this one, unless they are there; that folder."""
    import random

    from benchmarks.extract_pictures import cut, photographs

    height, width = workload.pictures
    place = folder / f"{workload.door}-{width}x{height}"
    if place.is_dir():
        return place
    choice, sources = random.Random(_SEED), photographs()  # noqa: S311
    count = FEW if height * width >= LARGE else COUNT
    cuts = [cut(choice.choice(sources), (width, height), choice) for _ in range(count)]
    place.mkdir(parents=True)
    if workload.door == "pixels":
        np.save(place / _PIXELS, np.stack([np.asarray(picture) for picture in cuts]))
        return place
    for index, picture in enumerate(cuts):
        made = io.BytesIO()
        picture.save(made, "JPEG", quality=QUALITY)
        (place / f"{index:04}.jpg").write_bytes(made.getvalue())
    return place


def load(folder: Path) -> list[Picture]:
    """The pictures of a folder that `draw` gave, in the order of their names. Needs NumPy only."""
    if (folder / _PIXELS).exists():
        return list(np.load(folder / _PIXELS))
    return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]


def rotation(pictures: Sequence[Picture]) -> Callable[[], Picture]:
    """Gives one picture after the other, round and round; any number of threads may take turns."""
    turn = itertools.count()  # its step is one C call, which no other thread interrupts
    return lambda: pictures[next(turn) % len(pictures)]
