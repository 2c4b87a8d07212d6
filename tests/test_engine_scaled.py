"""Fast decoding: where it changes nothing, how little it changes elsewhere, and what is refused still."""

from __future__ import annotations

import io
import struct

import numpy as np
import photographs
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitral.errors import ImageError, InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine import image as images
from vitral_engine import scaled
from vitral_engine.intake import Intake

SIDE = 48
GRAPH = pb.Graph()
GRAPH.input.folded = True
LEVELS = 1.5
"""Most that pixels may be off on average, out of 255."""


def _spec(**changes: object) -> pb.ModelSpec:
    values: dict[str, object] = {
        "contract": "hf-pil",
        "size": tensor_pb2.ImageSize(height=SIDE, width=SIDE),
        "resample": pb.RESAMPLE_BILINEAR,
        "rescale_factor": 1 / 255,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    return pb.ModelSpec(preprocessing=pb.Preprocessing(**(values | changes)))  # type: ignore[arg-type]


def _both(data: bytes, **changes: object) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row of exact decoding and that of fast decoding."""
    spec = _spec(**changes)
    exact, fast = (Intake(spec, decode=mode).encoded(data, GRAPH).array for mode in ("exact", "fast"))
    assert exact.shape == fast.shape
    return exact.astype(np.int64), fast.astype(np.int64)


def _saved(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A photograph whose sides no scale divides."""
    with Image.open(photographs.ROCKET) as opened:
        return opened.convert("RGB").resize((611, 397), Image.Resampling.LANCZOS)


def _close(exact: NDArray[np.int64], fast: NDArray[np.int64]) -> None:
    assert 0 < np.abs(exact - fast).mean() < LEVELS


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_other_formats_are_decoded_exactly(picture: Image.Image, kind: str) -> None:
    exact, fast = _both(_saved(picture, kind))
    assert np.array_equal(exact, fast)


@pytest.mark.parametrize("size", [(143, 400), (400, 143), (97, 96), (3, 5)])
def test_jpegs_too_small_to_gain_are_decoded_exactly(picture: Image.Image, size: tuple[int, int]) -> None:
    exact, fast = _both(_saved(picture.resize(size)))
    assert np.array_equal(exact, fast)


def test_nearest_is_decoded_exactly(picture: Image.Image) -> None:
    exact, fast = _both(_saved(picture), resample=pb.RESAMPLE_NEAREST)
    assert np.array_equal(exact, fast)


@pytest.mark.parametrize("contract", ["hf-pil", "hf-torchvision"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_stays_close(picture: Image.Image, orientation: int, contract: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _saved(picture, exif=exif)
    _close(*_both(data, contract=contract))
    _close(*_both(data, contract=contract, size=tensor_pb2.ImageSize(height=90, width=50)))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_mode_stays_close(picture: Image.Image, mode: str, progressive: bool) -> None:
    _close(*_both(_saved(picture.convert(mode), progressive=progressive)))


def test_a_file_of_several_jpegs_is_a_jpeg(picture: Image.Image) -> None:
    data = _saved(picture, "MPO", save_all=True, append_images=[picture.resize((64, 64))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    _close(*_both(data))


@pytest.mark.parametrize("turned", [False, True])
def test_a_shortest_edge_is_of_the_whole_picture(picture: Image.Image, turned: bool) -> None:
    data = _saved(picture.rotate(90, expand=True) if turned else picture)
    crop = tensor_pb2.ImageSize(height=44, width=60)
    _close(*_both(data, size=None, shortest_edge=SIDE, crop_size=crop))


@pytest.mark.parametrize(("side", "scale"), [(133, 1), (132, 2), (67, 2), (66, 4), (34, 4), (33, 8)])
def test_the_sides_kept_are_half_as_long_again_as_those_of_the_resize(
    picture: Image.Image, side: int, scale: int
) -> None:
    opened = images.open_header(_saved(picture.resize((1000, 397))))
    told = _spec(size=tensor_pb2.ImageSize(height=side, width=side)).preprocessing
    extent = scaled.shrink(opened, told)
    assert (extent is None) == (scale == 1)
    assert opened.size == (-(-1000 // scale), -(-397 // scale))
    if extent is not None:
        assert (extent.height, extent.width) == (397, 1000)
        assert extent.box == (0, 0, 1000 / scale, 397 / scale)
        assert extent.pixels == opened.width * opened.height


def test_a_progressive_jpeg_still_counts_as_large(picture: Image.Image) -> None:
    extent = scaled.shrink(images.open_header(_saved(picture, progressive=True)), _spec().preprocessing)
    assert extent is not None
    assert extent.pixels == 611 * 397


def test_limits_are_of_the_whole_picture(picture: Image.Image) -> None:
    data = _saved(picture)
    with pytest.raises(ImageError, match="image is 397 x 611, 242567 pixels, over the limit of 242566"):
        Intake(_spec(), decode="fast", max_pixels=242_566).encoded(data, GRAPH)
    bomb = bytearray(data)
    at = bomb.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = struct.pack(">HH", 65500, 65500)
    with pytest.raises(ImageError) as caught:
        Intake(_spec(), decode="fast").encoded(bytes(bomb), GRAPH)
    assert caught.value.cause == "too_many_pixels"


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_endless_scans_are_refused(picture: Image.Image, kind: str) -> None:
    more: dict[str, object] = {"append_images": [picture], "save_all": True} if kind == "MPO" else {}
    data = _saved(picture, kind, **more) + b"\xff\xda" * images.MAX_SCANS
    with pytest.raises(ImageError, match=f"scans, over the limit of {images.MAX_SCANS}"):
        Intake(_spec(), decode="fast").encoded(data, GRAPH)


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_a_jpeg_cut_short_is_refused(picture: Image.Image, decode: str) -> None:
    data = _saved(picture)
    with pytest.raises(ImageError, match=f"JPEG of {len(data) - 400} bytes cannot be decoded") as caught:
        Intake(_spec(), decode=decode).encoded(data[:-400], GRAPH)
    assert caught.value.cause == "corrupt"


def test_an_unknown_decode_names_the_known() -> None:
    with pytest.raises(InvalidArgumentError, match="unknown decode 'draft'; known are exact, fast"):
        Intake(_spec(), decode="draft")
