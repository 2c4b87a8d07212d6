"""The inputs a model is proven on: real photographs through the real preprocessing, noise, extremes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitral.errors import VitralError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine import raw_scale
from vitral_engine.image import open_rgb
from vitral_engine.preprocess import Preprocessor
from vitral_engine.raw_scale import RawScale
from vitral_export.dynamic_size import Size, row_shape, said

PHOTOGRAPHS = (
    "rocket.jpg",
    "coffee.png",
    "astronaut.png",
    "chelsea.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
)
"""Pictures that come inside the scikit-image package, all free to use."""

GOLDEN_PHOTOGRAPH = PHOTOGRAPHS[0]
"""The one that travels with every artifact."""

GOLDEN_CREDIT = "Photograph by SpaceX, public domain (CC0); rocket.jpg of scikit-image"
"""Whose it is."""

_SEED = 20_220_224
_NOISE = 4
_FEW = 2


@dataclass(frozen=True)
class Cases:
    """Rows of every kind for one graph.

    Attributes:
        rows: input rows (R, ...), those of one kind next to each other.
        kinds: kind to its rows.
        golden: indices of the rows that travel with the artifact.
    """

    rows: Array
    kinds: Mapping[str, slice]
    golden: tuple[int, ...]


def photograph_bytes(name: str) -> bytes:
    """The file of a photograph, read from the installed scikit-image.

    Raises:
        VitralError: scikit-image is not installed, or has no such file.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise VitralError("scikit-image, whose photographs proofs use, is not installed: add vitral[export]")
    file = Path(found.origin).parent / "data" / name
    if not file.is_file():
        raise VitralError(f"the installed scikit-image has no photograph {name}")
    return file.read_bytes()


def cases(graph: pb.Graph, preprocessing: pb.Preprocessing | None, size: Size | None = None) -> Cases:
    """Rows for a graph, the same at every call; `size` is the native one of a graph of several."""
    random = np.random.default_rng(_SEED)
    if preprocessing is None:
        shape = row_shape(graph.input.axes, size)
        noise = random.standard_normal((2 * _NOISE, *shape)).astype(np.float32)
        return _together({"noise": noise, "saturated": _extremes(shape)}, golden=(0, 1, 2))
    if preprocessing.contract == raw_scale.CONTRACT:
        return _raw(preprocessing, random)
    contract = Preprocessor(preprocessing)
    pictures = np.stack([contract.resize(open_rgb(photograph_bytes(name))) for name in PHOTOGRAPHS])
    pixels = random.integers(0, 256, (_NOISE, *pictures.shape[1:]), dtype=np.uint8)
    saturated = saturated_pixels(*pictures.shape[1:3])
    parts: dict[str, Array] = {"photographs": pictures, "noise": pixels, "saturated": saturated}
    if not graph.input.folded:
        parts |= {name: contract.as_resized(parts[name]) for name in ("noise", "saturated")}
        parts = {name: contract.normalise(part) for name, part in parts.items()}
        parts["noise"] = random.standard_normal(parts["noise"].shape).astype(np.float32)
    return _together(parts, golden=(0, 1, len(PHOTOGRAPHS)))


def cases_at(graph: pb.Graph, preprocessing: pb.Preprocessing | None, size: Size, *, few: bool) -> Cases:
    """Rows of one kind, the size itself, for a graph of dynamic height and width; the first one is golden.

    Photographs, noise and stripes; a photograph and noise where there are to be `few`.
    """
    height, width = size
    shape = row_shape(graph.input.axes, size)
    random = np.random.default_rng(_SEED)
    if preprocessing is None:
        noise = random.standard_normal((_FEW if few else _NOISE, *shape)).astype(np.float32)
        return _together({said(size): noise}, golden=(0,))
    contract = Preprocessor(preprocessing, size=size)
    names = PHOTOGRAPHS[: 1 if few else 2]
    pictures = [contract.resize(open_rgb(photograph_bytes(name))) for name in names]
    levels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    drawn = np.stack([levels, *([] if few else saturated_pixels(height, width)[-1:])])
    pixels: Array = np.concatenate([np.stack(pictures), contract.as_resized(drawn)])
    rows: Array = pixels if graph.input.folded else contract.normalise(pixels)
    return _together({said(size): rows}, golden=(0,))


def _raw(preprocessing: pb.Preprocessing, random: np.random.Generator) -> Cases:
    """Rows for a model of any channels: drawn pictures through its own contract, noise, extremes."""
    contract = RawScale(preprocessing)
    height, width, channels = contract.shape
    scale, offset = (np.array(item) for item in (preprocessing.scale, preprocessing.offset))
    drawn = (_drawn(height, width, channels, random) for _ in PHOTOGRAPHS)
    pictures = np.stack([contract.row(((row - offset) / scale).astype(np.float32)) for row in drawn])
    shape = (channels, height, width)
    noise = random.standard_normal((_NOISE, *shape)).astype(np.float32)
    parts = {"pictures": pictures, "noise": noise, "saturated": _extremes(shape)}
    return _together(parts, golden=(0, 1, len(pictures)))


def _drawn(height: int, width: int, channels: int, random: np.random.Generator) -> NDArray[np.float64]:
    """A picture of slopes and waves (H, W, C), another in each channel, with values from -2 to 2."""
    down, across = (np.linspace(-1, 1, extent) for extent in (height, width))
    slopes, waves, phases = (random.uniform(-1, 1, (3, channels)) for _ in range(3))
    slope = slopes[0] * down[:, None, None] + slopes[1] * across[:, None]
    wave = np.sin(8 * (waves[0] * down[:, None, None] + waves[1] * across[:, None]) + np.pi * phases[0])
    found: NDArray[np.float64] = np.clip(slope + wave, -2, 2)
    return found


def saturated_pixels(height: int, width: int) -> NDArray[np.uint8]:
    """Black, white, the three primaries and diagonal stripes: uint8 (6, H, W, 3)."""
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    flat = [np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)) for colour in colours]
    stripes = _stripes((height, width)) * 255
    return np.stack([*flat, np.repeat(stripes[..., None], 3, axis=2).astype(np.uint8)])


def _extremes(shape: tuple[int, ...]) -> NDArray[np.float32]:
    stripes = _stripes(shape) * 2 - 1
    return np.stack([np.full(shape, -1), np.full(shape, 1), stripes]).astype(np.float32)


def _stripes(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """One in three is 1: of a checkerboard's halves the mean is 0, of which no relative error can be told."""
    return np.asarray(np.indices(shape).sum(axis=0) % 3 // 2, np.int64)


def _together(parts: Mapping[str, Array], *, golden: tuple[int, ...]) -> Cases:
    kinds, at = {}, 0
    for name, part in parts.items():
        kinds[name] = slice(at, at + len(part))
        at += len(part)
    return Cases(np.ascontiguousarray(np.concatenate(list(parts.values()))), kinds, golden)
