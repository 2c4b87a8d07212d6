"""Contract raw-scale: values of any channels, from arrays and files, and files that are none."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from vitral.errors import ArtifactError, ImageError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine import raw_file
from vitral_engine.raw_intake import intake_of
from vitral_engine.raw_scale import RawScale

SCALE, OFFSET = [1e-4, 2e-4, -0.5, 3.0, 1.0], [0.0, -0.1, 2.0, 0.25, 0.0]
KINDS = ("uint8", "uint16", "int16", "float32")


def _contract(channels: int = 4, height: int = 6, width: int = 10) -> RawScale:
    size = tensor_pb2.ImageSize(height=height, width=width)
    return RawScale(
        pb.Preprocessing(contract="raw-scale", size=size, scale=SCALE[:channels], offset=OFFSET[:channels])
    )


def _values(kind: str, *shape: int) -> Array:
    found = np.random.default_rng(0).integers(0, 256, shape)
    return ((found * 117 - (9000 if kind == "int16" else 0)) if kind != "uint8" else found).astype(kind)


def _saved(values: Array, **more: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, **more)
    return file.getvalue()


def _tiff(values: Array, **more: Any) -> bytes:
    file = io.BytesIO()
    told = {"photometric": "minisblack", "planarconfig": "contig" if values.ndim == 3 else None}
    tifffile.imwrite(file, values, **(told | more))
    return file.getvalue()


def _png(values: Array, **more: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", **more)
    return file.getvalue()


def _read(data: bytes, contract: RawScale | None = None) -> Array:
    contract = contract or _contract()
    return raw_file.read(data, lambda shape, dtype: contract.demand(shape, dtype, what="it is"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_a_row_is_value_times_scale_plus_offset(kind: str, channels: int) -> None:
    values = _values(kind, 6, 10, channels)
    row = _contract(channels).row(values)
    assert (row.dtype, row.shape) == (np.float32, (channels, 6, 10))
    for channel in range(channels):
        scaled = values[..., channel].astype(np.float32) * np.float32(SCALE[channel])
        assert np.array_equal(row[channel], scaled + np.float32(OFFSET[channel]))


def test_one_channel_needs_no_axis() -> None:
    values = _values("uint16", 6, 10)
    assert np.array_equal(_contract(1).row(values), _contract(1).row(values[..., None]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((6, 10, 3), np.uint8), "6 x 10 x 3 uint8; 6 x 10 x 4 of uint8, uint16, int16, float32 is"),
        (np.zeros((10, 6, 4), np.uint8), "10 x 6 x 4 uint8; 6 x 10 x 4 of"),
        (np.zeros((4, 6, 10), np.uint8), "4 x 6 x 10 uint8; .*height x width x channels"),
        (np.zeros((6, 10), np.uint8), "6 x 10 uint8; 6 x 10 x 4 of"),
        (np.zeros((6, 10, 4), np.float64), "6 x 10 x 4 float64"),
        (np.zeros((), np.uint8), "a scalar uint8"),
    ],
)
def test_other_shapes_and_types_are_refused_with_both(values: Array, message: str) -> None:
    with pytest.raises(ImageError, match=message) as raised:
        _contract().row(values)
    assert raised.value.cause == "shape"


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "NaN or Inf in 1 of 240"), (np.inf, "NaN or Inf in 1"), (3e38, "overflow .* in 1 of 240")],
)
def test_what_is_not_finite_is_refused(value: float, message: str) -> None:
    values = np.zeros((6, 10, 4), np.float32)
    values[1, 2, 3] = value
    with pytest.raises(ImageError, match=message) as raised:
        _contract().row(values)
    assert raised.value.cause == "not_finite"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": []}, "0 scales and 2 offsets"),
        ({"offset": [0.0]}, "2 scales and 1 offsets"),
        ({"scale": [1.0, 0.0]}, "no scale of 0"),
        ({"scale": [1.0, 1e-60]}, "no scale of 0"),
        ({"offset": [0.0, 1e60]}, "finite in float32"),
        ({"scale": [1.0, float("nan")]}, "finite in float32"),
        ({"size": None}, "a size of 0 x 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    size = tensor_pb2.ImageSize(height=6, width=10)
    values: dict[str, Any] = {"contract": "raw-scale", "size": size, "scale": [1, 2], "offset": [0, 0]}
    with pytest.raises(ArtifactError, match=message):
        RawScale(pb.Preprocessing(**(values | changes)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "write",
    [
        _saved,
        lambda values: _saved(np.asfortranarray(values)),
        lambda values: _saved(values.astype(values.dtype.newbyteorder(">"))),
        _tiff,
        lambda values: _tiff(values, byteorder=">"),
        lambda values: _tiff(values, bigtiff=True),
        lambda values: _tiff(values, rowsperstrip=2),
        lambda values: _tiff(np.moveaxis(values, -1, 0), planarconfig="separate"),
    ],
    ids=["npy", "by columns", "big-endian", "tiff", "big-endian tiff", "bigtiff", "strips", "planes"],
)
def test_files_hold_what_was_written(write: Callable[[Array], bytes], kind: str) -> None:
    values = _values(kind, 6, 10, 4)
    got = _read(write(values))
    assert np.array_equal(got, values)
    assert np.array_equal(_contract().row(got), _contract().row(values))


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("write", [_png, _tiff, _saved], ids=["png", "tiff", "npy"])
def test_grey_files_of_one_channel(write: Callable[[Array], bytes], kind: str) -> None:
    values = _values(kind, 6, 10)
    got = _read(write(values), _contract(1))
    assert got.dtype.newbyteorder("=") == values.dtype
    assert np.array_equal(got, values)


def _pickled() -> bytes:
    return _saved(np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1")


def _huge_png() -> bytes:
    data = bytearray(_png(np.zeros((6, 10), np.uint16)))
    data[16:24] = struct.pack(">II", 65535, 65535)
    return bytes(data)


def _huge_tiff() -> bytes:
    data = bytearray(_tiff(np.zeros((6, 10, 4), np.uint16)))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tags = file.pages[0].tags
        for name in ("ImageWidth", "ImageLength"):
            data[tags[name].valueoffset :][:2] = b"\xff\xff"
            data[tags[name].valueoffset : tags[name].valueoffset + 2] = b"\xff\xff"
    return bytes(data)


def _cyclic_tiff() -> bytes:
    """Whose page is its own next page."""
    data = bytearray(_tiff(np.zeros((6, 10, 4), np.uint16)))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    return bytes(data)


DEEP: NDArray[np.uint16] = np.zeros((6, 10, 4), np.uint16)
IMAGEJ = _tiff(np.zeros((3, 6, 10), np.uint16), imagej=True, planarconfig=None)

NASTY: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "empty", "0 bytes"),
    "text": (b"hello", "format", "no NPY, TIFF or PNG"),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(60), "format", "no NPY, TIFF or PNG"),
    "pickled NPY": (_pickled(), "mode", "pickled objects, which are never loaded"),
    "NPY of records": (_saved(np.zeros(3, [("a", "u1")])), "shape", "3 void"),
    "NPY of text": (_saved(np.array(["a"])), "shape", "1 str"),
    "NPY with a huge header": (_header("{" + " " * 60000 + "}"), "corrupt", "Header info length"),
    "NPY with deep brackets": (_header("(" * 4000), "corrupt", "cannot be read"),
    "NPY with code": (_header("__import__('os').abort()\n"), "corrupt", "cannot be read"),
    "NPY that claims much": (
        _header("{'descr': '<u2', 'fortran_order': False, 'shape': (1000000, 1000000, 4), }\n"),
        "shape",
        "1000000 x 1000000 x 4 uint16",
    ),
    "NPY of less than nothing": (
        _header("{'descr': '<u2', 'fortran_order': False, 'shape': (-6, -10, 4), }\n"),
        "shape",
        "-6 x -10 x 4",
    ),
    "NPY cut short": (_saved(DEEP)[:-1], "corrupt", "479 bytes of values; 480 are needed"),
    "NPY with more behind it": (_saved(DEEP) + b"x", "corrupt", "481 bytes of values; 480 are needed"),
    "NPY of a magic alone": (b"\x93NUMPY", "corrupt", "cannot be read"),
    "NPY of format 9": (b"\x93NUMPY\x09\x00" + bytes(90), "format", "format 9.0"),
    "TIFF of two pages": (_tiff(np.zeros((2, 6, 10, 4), np.uint16)), "mode", "several pages"),
    "TIFF of ImageJ's stack": (IMAGEJ, "mode", "several pages"),
    "TIFF whose pages are a ring": (_cyclic_tiff(), "mode", "several pages"),
    "compressed TIFF": (_tiff(DEEP, compression="zlib"), "mode", "compression .*uncompressed is taken"),
    "TIFF with a palette": (
        _tiff(
            np.zeros((6, 10), np.uint8),
            photometric="palette",
            colormap=np.zeros((3, 256), np.uint16),
            planarconfig=None,
        ),
        "mode",
        "a palette",
    ),
    "TIFF that is turned": (_tiff(DEEP, extratags=[(274, 3, 1, 6, True)]), "mode", "orientation of its own"),
    "TIFF of 65535 x 65535": (_huge_tiff(), "shape", "65535 x 65535 x 4 uint16"),
    "TIFF of float64": (_tiff(DEEP.astype(np.float64)), "shape", "6 x 10 x 4 float64"),
    "TIFF of three channels": (
        _tiff(np.zeros((6, 10, 3), np.uint8)),
        "shape",
        "6 x 10 x 3 uint8; 6 x 10 x 4",
    ),
    "TIFF cut short": (_tiff(DEEP)[:-1], "corrupt", "cut short"),
    "TIFF of a magic alone": (b"II*\0", "corrupt", "cannot be read"),
    "TIFF without a page": (b"II*\0" + bytes(4), "corrupt", "cannot be read"),
    "TIFF that points past its end": (b"II*\0" + struct.pack("<I", 1 << 30), "corrupt", "cannot be read"),
    "PNG of three channels": (
        _png(np.zeros((6, 10, 3), np.uint8)),
        "mode",
        "8 bits and colour type 2; grey of 8 or 16",
    ),
    "PNG of 65535 x 65535": (_huge_png(), "shape", "65535 x 65535 uint16"),
    "PNG of one bit": (_png(np.zeros((6, 10), bool)), "mode", "1 bits and colour"),
    "PNG of a wrong checksum": (_png(DEEP[..., 0]).replace(b"IDAT", b"IDAU"), "corrupt", "cannot be read"),
    "PNG cut short": (_png(_values("uint16", 6, 10))[:50], "corrupt", "cannot be read"),
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_files_are_refused_in_one_line(name: str) -> None:
    data, cause, message = NASTY[name]
    contract = _contract(1) if name.startswith("PNG") and "65535" not in name else _contract()
    with pytest.raises(ImageError, match=message) as raised:
        _read(data, contract)
    assert raised.value.cause == cause
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 250


def test_damaged_files_are_refused_or_read_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    for whole in (_saved(DEEP), _tiff(DEEP), _tiff(DEEP, rowsperstrip=2), _png(_values("uint16", 6, 10))):
        contract = _contract(1) if whole[:4] == b"\x89PNG" else _contract()
        for _ in range(150):
            data = bytearray(whole)
            for at in random.integers(0, min(len(data), 400), 3):
                data[at] = random.integers(256)
            try:
                values = _read(bytes(data), contract)
            except ImageError:
                continue
            assert values.reshape(contract.shape).dtype.newbyteorder("=").name in KINDS


def test_values_of_a_size_that_was_asked_for() -> None:
    told = pb.Preprocessing(contract="raw-scale", scale=SCALE[:4], offset=OFFSET[:4])
    told.size.height, told.size.width = 6, 10
    intake = intake_of(pb.ModelSpec(preprocessing=told), max_pixels=1000, size=(12, 20))
    graph = pb.Graph(input=pb.GraphInput(dtype=tensor_pb2.DATA_TYPE_FLOAT32))
    values = _values("uint16", 12, 20, 4)
    row = intake.pixels(values, graph).array
    assert np.array_equal(row[:, :6, :10], _contract().row(values[:6, :10]))
    assert np.array_equal(intake.encoded(_saved(values), graph).array, row)
    with pytest.raises(ImageError, match="values are 6 x 10 x 4 uint16; 12 x 20 x 4 of "):
        intake.pixels(values[:6, :10], graph)
