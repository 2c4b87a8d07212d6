"""Decoding: what transformers' load_image gives, and what must be refused or must not harm."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import photographs
import pytest
from PIL import Image
from transformers.image_utils import load_image

from vitral.errors import ImageError
from vitral_engine import image as images


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.open(photographs.COFFEE).convert("RGB").resize((64, 48))


@pytest.mark.parametrize("path", photographs.ALL, ids=lambda path: path.name)
def test_photographs_equal_load_image(path: object) -> None:
    expected = np.asarray(load_image(str(path)))
    assert np.array_equal(images.decode(photographs.Path(str(path)).read_bytes()), expected)


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_format_is_decoded(kind: str, picture: Image.Image) -> None:
    data = _saved(picture, kind)
    assert np.array_equal(images.decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PDF"])
def test_other_formats_are_refused(kind: str, picture: Image.Image) -> None:
    with pytest.raises(ImageError, match="no image of a known format") as caught:
        images.decode(_saved(picture, kind))
    assert caught.value.cause == "format"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _saved(picture, "JPEG", exif=exif)
    expected = np.asarray(load_image(Image.open(io.BytesIO(data))))
    assert np.array_equal(images.decode(data), expected)
    assert expected.shape == ((64, 48, 3) if orientation >= 5 else (48, 64, 3))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
def test_modes_without_alpha_equal_pillow(mode: str, picture: Image.Image) -> None:
    data = _saved(picture.convert(mode), "PNG")
    assert np.array_equal(images.decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_cmyk_is_converted(picture: Image.Image) -> None:
    data = _saved(picture.convert("CMYK"), "JPEG")
    assert np.array_equal(images.decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(mode: str, picture: Image.Image) -> None:
    see_through = picture.convert(mode)
    see_through.putalpha(0)
    assert np.all(images.decode(_saved(see_through, "PNG")) == 255)
    half = picture.convert(mode)
    half.putalpha(128)
    base = np.asarray(half.convert("RGB")).astype(float)
    assert np.abs(images.decode(_saved(half, "PNG")) - (base * 128 + 255 * 127) / 255).max() <= 1


def test_transparent_palette_is_laid_over_white(picture: Image.Image) -> None:
    palette = picture.quantize(16)
    data = _saved(palette, "PNG", transparency=0)
    hidden = np.asarray(palette) == 0
    assert hidden.any()
    assert np.all(images.decode(data)[hidden] == 255)


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("F", "TIFF"), ("I", "TIFF")])
def test_deep_modes_are_refused_by_name(mode: str, kind: str) -> None:
    values = np.linspace(0, 60000, 64).reshape(8, 8)
    dtype = {"I;16": np.uint16, "F": np.float32, "I": np.int32}[mode]
    data = _saved(Image.fromarray(values.astype(dtype)), kind)
    with pytest.raises(ImageError, match=f"image mode {mode}") as caught:
        images.decode(data)
    assert caught.value.cause == "mode"


def test_first_frame_of_a_gif(picture: Image.Image) -> None:
    other = Image.new("RGB", picture.size, "red")
    data = _saved(picture.quantize(64), "GIF", save_all=True, append_images=[other.quantize(2)])
    assert np.array_equal(images.decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kept", [0, 1, 20, 300, 2000, -400])
def test_truncated_jpegs_are_refused(kept: int) -> None:
    data = photographs.ROCKET.read_bytes()[:kept]
    with pytest.raises(ImageError) as caught:
        images.decode(data)
    assert caught.value.cause in ("empty", "format", "corrupt")
    assert str(len(data)) in str(caught.value)


def test_damaged_files_never_raise_anything_else(picture: Image.Image) -> None:
    random = np.random.default_rng(5)
    for kind in images.FORMATS:
        data = bytearray(_saved(picture, kind))
        for _ in range(40):
            damaged = bytearray(data)
            for at in random.integers(0, len(data), 8):
                damaged[at] = random.integers(256)
            try:
                images.decode(bytes(damaged), max_pixels=1 << 20)
            except ImageError:
                continue


def test_jpeg_header_bomb_is_refused_before_decoding() -> None:
    data = bytearray(_saved(Image.new("RGB", (8, 8)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65500, 65500)
    with pytest.raises(ImageError) as caught:
        images.decode(bytes(data))
    assert caught.value.cause == "too_many_pixels"


def test_png_header_bomb_is_refused_before_decoding() -> None:
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" * 64))
    with pytest.raises(ImageError) as caught:
        images.decode(data)
    assert caught.value.cause == "too_many_pixels"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_pixel_limit_names_the_numbers(picture: Image.Image) -> None:
    with pytest.raises(ImageError, match="image is 48 x 64, 3072 pixels, over the limit of 3071"):
        images.decode(_saved(picture, "PNG"), max_pixels=3071)
