"""Sixteen-bit pictures: refused by name, or divided by 257 where the spec has that rule; never white."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import pytest
import serving
from PIL import Image

import vitral_client
import vitral_engine
from vitral.errors import ImageError, ImageErrors
from vitral_engine import image as images
from vitral_export.cli import main


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def wide() -> np.ndarray[Any, np.dtype[np.uint16]]:
    """A photograph of 16 bits: every value of 8 bits with something in the low byte."""
    grey = np.asarray(Image.open(photographs.COFFEE).convert("L").resize((64, 48)))
    low = np.random.default_rng(7).integers(0, 256, grey.shape)
    return (grey.astype(np.uint32) * 256 + low).astype(np.uint16)


def _levels(wide: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.repeat(np.rint(wide / 257).astype(np.uint8)[..., None], 3, axis=2)


def _files(wide: np.ndarray[Any, Any]) -> dict[str, bytes]:
    swapped = Image.frombytes("I;16B", wide.shape[::-1], wide.astype(">u2").tobytes())
    return {
        "png": _saved(Image.fromarray(wide), "PNG"),
        "tiff": _saved(Image.fromarray(wide), "TIFF"),
        "tiff of the other order": _saved(swapped, "TIFF"),
        "tiff, packed": _saved(Image.fromarray(wide), "TIFF", compression="tiff_lzw"),
    }


def test_sixteen_bits_are_divided_by_257(wide: np.ndarray[Any, Any]) -> None:
    modes = set()
    for name, data in _files(wide).items():
        modes.add(Image.open(io.BytesIO(data)).mode)
        got = images.decode(data, high_depth=images.DIVIDE)
        assert np.array_equal(got, _levels(wide)), name
        with pytest.raises(ImageError, match=r"image mode I;16B? cannot be turned into 8-bit RGB") as caught:
            images.decode(data)
        assert caught.value.cause == "mode"
    assert modes == {"I;16", "I;16B"}


def test_the_ends_of_the_scale_are_black_and_white() -> None:
    ends = np.array([[0, 128, 129, 32767, 65407, 65535]], np.uint16)
    got = images.decode(_saved(Image.fromarray(ends), "PNG"), high_depth=images.DIVIDE)
    assert got[0, :, 0].tolist() == [0, 0, 1, 127, 255, 255]


def test_sixteen_bits_are_turned_upright_and_see_through(wide: np.ndarray[Any, Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = images.decode(_saved(Image.fromarray(wide), "PNG", exif=exif), high_depth=images.DIVIDE)
    assert np.array_equal(turned, np.rot90(_levels(wide), -1))
    value = int(wide[0, 0])
    clear = images.decode(_saved(Image.fromarray(wide), "PNG", transparency=value), high_depth=images.DIVIDE)
    assert np.all(clear[wide == value] == 255)
    assert np.array_equal(clear[wide != value], _levels(wide)[wide != value])


def _tiff(values: bytes, *, bits: int, photometric: int) -> bytes:
    """A little-endian TIFF of 8 x 8 in one strip."""
    tags = [
        (256, 3, 8),
        (257, 3, 8),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8 + 2 + 8 * 12 + 4),
        (277, 3, 1),
        (279, 4, len(values)),
    ]
    entries = b"".join(
        tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + b"\1\0\0\0" + value.to_bytes(4, "little")
        for tag, kind, value in tags
    )
    return b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + entries + b"\0\0\0\0" + values


@pytest.mark.parametrize(
    ("bits", "photometric", "message"),
    [(12, 1, "image mode I;16 of 12 bits cannot be scaled"), (16, 0, "image mode I;16 with white as 0")],
)
def test_what_only_looks_like_sixteen_bits_is_refused(bits: int, photometric: int, message: str) -> None:
    data = _tiff(bytes(8 * 8 * bits // 8), bits=bits, photometric=photometric)
    with pytest.raises(ImageError, match=message):
        images.decode(data, high_depth=images.DIVIDE)
    whole = _tiff(bytes(8 * 8 * 2), bits=16, photometric=1)
    assert images.decode(whole, high_depth=images.DIVIDE).shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_other_deep_modes_stay_refused(mode: str) -> None:
    values = np.full((8, 8), 60000, {"I": np.int32, "F": np.float32}[mode])
    with pytest.raises(ImageError, match=f"image mode {mode} cannot be turned"):
        images.decode(_saved(Image.fromarray(values), "TIFF"), high_depth=images.DIVIDE)


@pytest.fixture(scope="module")
def deep_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, `scaling` and `refusing`."""
    repo = tmp_path_factory.mktemp("deep") / "models"
    sizes = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")
    for name, rule in (("scaling", "scale"), ("refusing", "refuse")):
        options = ("--preprocessing", "hf-torchvision", "--high-depth", rule)
        source = ("build", "patch-embedding", "--name", name, "--repo", str(repo))
        assert main([*source, *options, *sizes]) == 0
    return repo


def test_the_rule_holds_in_process_and_in_the_server(
    deep_repo: Path, wide: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    model, refusing = (vitral_engine.open(deep_repo / name) for name in ("scaling", "refusing"))
    assert model.spec.preprocessing.high_depth == "divide-by-257"
    assert model.spec.preprocessing.contract == "hf-torchvision"
    assert not refusing.spec.preprocessing.high_depth
    assert model.spec.fingerprint != refusing.spec.fingerprint
    deep, plain = _files(wide)["png"], _saved(Image.fromarray(_levels(wide)), "PNG")
    white = np.full((48, 64, 3), 255, np.uint8)
    ours, expected, of_white = (item.patches for item in model.embed([deep, plain, white]))
    assert np.array_equal(ours, expected)
    assert np.abs(ours - of_white).max() > 0.1
    with pytest.raises(ImageErrors, match="image mode I;16"):
        refusing.embed([deep])
    with (
        serving.running(deep_repo, log=tmp_path / "log") as server,
        vitral_client.Client(server.address) as client,
    ):
        served = client.embed([deep, Image.fromarray(wide)], model="scaling")
        assert all(np.array_equal(item.patches, expected) for item in served)
        with pytest.raises(ImageErrors, match="image mode I;16"):
            client.embed([deep], model="refusing")
