"""Figures to a file: .png or .gif, written aside and renamed. The same scene gives the same bytes."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from vitral.errors import InvalidArgumentError
from vitral_view import animation, poster, style
from vitral_view.scene import Scene

FORMATS = (".png", ".gif")
"""Suffixes of the files that can be written."""

_PACK = np.array([1 << 16, 1 << 8, 1], np.uint32)


def check_target(path: Path) -> None:
    """Refuses a file that could not be written, before anything is drawn.

    Raises:
        InvalidArgumentError: its suffix is none of `FORMATS`, its folder does not exist, or it is a folder.
    """
    if path.suffix.lower() not in FORMATS:
        raise InvalidArgumentError(f"{path} ends in none of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InvalidArgumentError(f"cannot write {path}: its folder does not exist")
    if path.is_dir():
        raise InvalidArgumentError(f"cannot write {path}: it is a folder")


def write(path: Path | str, scene: Scene) -> None:
    """Draws all steps on one page (.png), or one after the other (.gif).

    Raises:
        InvalidArgumentError: see `check_target`.
        OSError: the file cannot be written.
    """
    path = Path(path)
    check_target(path)
    data = _png(scene) if path.suffix.lower() == ".png" else _gif(scene)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _png(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(poster.draw(scene)).save(buffer, "PNG")
    return buffer.getvalue()


def _gif(scene: Scene) -> bytes:
    frames = animation.draw(scene)
    first, *rest = (_paletted(frame.pixels) for frame in frames)
    buffer = io.BytesIO()
    durations = [frame.milliseconds for frame in frames]
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=False)
    return buffer.getvalue()


def _paletted(pixels: NDArray[np.uint8]) -> Image.Image:
    """A frame in 256 colours of its own, exact ones for words and marks: a photograph would take them all."""
    marks = [ImageColor.getrgb(colour) for colour in style.MARKS]
    image = Image.fromarray(pixels).quantize(256 - len(marks))
    palette = (image.getpalette() or [])[: 3 * (256 - len(marks))]
    first = len(palette) // 3
    indices = np.array(image)
    packed = pixels.astype(np.uint32) @ _PACK  # H W 3 -> H W
    for index, mark in enumerate(marks, first):
        indices[packed == np.array(mark, np.uint32) @ _PACK] = index
    framed = Image.fromarray(indices)
    framed.putpalette([*palette, *(part for mark in marks for part in mark)])
    return framed
