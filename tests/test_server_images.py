"""Pictures that mean harm or cannot be served faithfully, between good ones; and the smallest there are."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import photographs
import pytest
from PIL import Image
from serving import Running, running

import vitral_engine
from vitral_client import Client, Embedding, ImageError

GOOD = photographs.ROCKET.read_bytes()


@pytest.fixture(scope="module")
def server(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(small_repo, log=tmp_path_factory.mktemp("log") / "server.log") as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


def _saved(picture: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(*chunks: bytes, width: int = 8, height: int = 8) -> bytes:
    """One bit a pixel, all of it there."""
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 1)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = (_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", rows), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _jpeg_of_65500() -> bytes:
    data = bytearray(_saved(Image.new("RGB", (8, 8)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def _damaged() -> bytes:
    data = bytearray(photographs.COFFEE.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    return bytes(data)


def _deep(dtype: type, kind: str) -> bytes:
    return _saved(Image.fromarray(np.linspace(0, 60_000, 64).reshape(8, 8).astype(dtype)), kind)


BAD = {
    "JPEG header bomb": (
        _jpeg_of_65500(),
        "too_many_pixels",
        "the limit is 89478485: Image size (4290250000 pixels)",
    ),
    "PNG of 900 megapixels": (
        _png(width=30_000, height=30_000),
        "too_many_pixels",
        "the limit is 89478485: Image size (900000000 pixels)",
    ),
    "text that grows": (
        _png(_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(200 << 20), 1))),
        "format",
        "bytes are no image of a known format",
    ),
    "damaged PNG": (_damaged(), "corrupt", f"PNG of {photographs.COFFEE.stat().st_size} bytes"),
    "16-bit PNG": (_deep(np.uint16, "PNG"), "mode", "image mode I;16"),
    "16-bit TIFF": (_deep(np.uint16, "TIFF"), "mode", "image mode I;16"),
    "32-bit TIFF": (_deep(np.int32, "TIFF"), "mode", "image mode I "),
    "float TIFF": (_deep(np.float32, "TIFF"), "mode", "image mode F"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_picture_fails_alone_and_costs_nothing(server: Running, client: Client, case: str) -> None:
    data, cause, words = BAD[case]
    first = client.embed(GOOD)
    before = _resident(server)
    results = client.embed([GOOD, data, GOOD], errors="return")
    error = results[1]
    assert isinstance(error, ImageError)
    assert (error.index, error.cause) == (1, cause)
    assert words in str(error)
    for result in (results[0], results[2]):
        assert isinstance(result, Embedding)
        np.testing.assert_array_equal(result.patches, first.patches)
    assert _resident(server) - before < 100
    assert server.lines("embed")[-1]["ms"] < 5000


def _resident(server: Running) -> int:
    """Most memory the server ever had resident, in MiB: what a bomb takes for a moment counts too."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise AssertionError("no VmHWM")


def test_pictures_of_pil_in_16_bit_are_refused_by_the_server_by_name(client: Client) -> None:
    with pytest.raises(ImageError, match="image mode I;16 cannot be turned into 8-bit RGB faithfully"):
        client.embed(Image.new("I;16", (7, 5), 40_000))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_one_pixel_is_a_picture(client: Client, small_repo: Path, kind: str) -> None:
    data = _saved(Image.new("RGB", (1, 1), (200, 40, 90)), kind)
    pixel = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    whole = client.embed(np.broadcast_to(pixel, (32, 32, 3)).copy())
    (ours,) = vitral_engine.open(small_repo / "tiny", device="cpu").embed([data])
    for result in client.embed([data, pixel, Image.open(io.BytesIO(data))]):
        np.testing.assert_array_equal(result.patches, whole.patches)
    np.testing.assert_allclose(ours.patches, whole.patches, atol=1e-6)
    assert float(np.ptp(whole.patches, axis=0).max()) < 1e-5, "every patch is of the one colour"
