"""Pictures a second, decoded as the server decodes them, by one thread and by one a core."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from vitral.errors import VitralError
from vitral_engine.artifact import models, versions

_SECONDS = 0.4


@dataclass(frozen=True)
class Decoding:
    """How fast a JPEG is decoded.

    Attributes:
        picture: which one.
        width, height: in pixels.
        one: pictures a second in one thread.
        all: in one thread a core.
        threads: how many these are.
    """

    picture: str
    width: int
    height: int
    one: float
    all: float
    threads: int


def measure(repo: Path, threads: int) -> Decoding:
    """Decodes the photograph of a model of the repository, or a drawn one where it has none."""
    from vitral_engine.image import open_rgb

    name, data = _picture(repo)
    size = open_rgb(data).size
    return Decoding(name, *size, _rate(data, 1), _rate(data, threads), threads)


def _rate(data: bytes, threads: int) -> float:
    from vitral_engine.image import open_rgb

    until = perf_counter() + _SECONDS

    def work(_: int) -> int:
        count = 0
        while perf_counter() < until:
            open_rgb(data)
            count += 1
        return count

    start = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        done: Sequence[int] = list(pool.map(work, range(threads)))
    return sum(done) / (perf_counter() - start)


def _picture(repo: Path) -> tuple[str, bytes]:
    for path, data in _photographs(repo):
        return f"{path.parent.parent.name}/{path.parent.name}/{path.name}", data
    return "a drawn picture", _drawn()


def _photographs(repo: Path) -> Iterator[tuple[Path, bytes]]:
    """Golden photographs that can be decoded, whatever else is wrong with their models."""
    from vitral_engine.image import open_rgb

    for folder in models(repo) if repo.is_dir() else []:
        for version in reversed(versions(folder)):
            path = folder / str(version) / "photograph.jpg"
            with suppress(OSError, VitralError):
                data = path.read_bytes()
                open_rgb(data)
                yield path, data


def _drawn() -> bytes:
    """A JPEG of 640 x 480 that costs about as much as a photograph: slopes under noise."""
    from PIL import Image

    slope = Image.linear_gradient("L").resize((640, 480))
    noise = Image.effect_noise((640, 480), 40)
    picture = Image.merge("RGB", (slope, noise, Image.blend(slope, noise, 0.3)))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()
