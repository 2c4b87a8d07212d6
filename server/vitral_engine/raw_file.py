"""NPY, TIFF and PNG files to the numbers that stand in them: no colours, no orientation, no resize.

Header first: a file whose shape is not the one asked for is refused before its values are touched, so that
none can claim more memory than the model's own input takes.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from vitral.errors import ImageError
from vitral.tensors import Array

Demand = Callable[[tuple[int, ...], "np.dtype[Any]"], None]
"""Refuses a shape and type with an `ImageError`."""

_NPY_MAGIC = b"\x93NUMPY"
_NPY_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_NPY_HEADER = 4096
"""Most bytes of an NPY header: those of arrays of numbers have some 120."""

_PNG_GREY, _PNG_DEPTHS = 0, (8, 16)
_ORIENTATION, _PALETTE = 274, 3


def read(data: bytes, demand: Demand) -> Array:
    """The values in a file.

    Args:
        data: its bytes.
        demand: called with shape and type before values are read.

    Raises:
        ImageError: cause `empty`, `format`, `mode`, `corrupt`, or what `demand` raises.
    """
    if not data:
        raise ImageError("image is empty, 0 bytes", cause="empty")
    for magic, reader in _READERS.items():
        if data.startswith(magic):
            try:
                return reader(data, demand)
            except ImageError:
                raise
            except Exception as error:  # parsers raise whatever they like on damaged files
                kind = reader.__name__.removeprefix("_").upper()
                message = f"{kind} of {len(data)} bytes cannot be read: {_short(error)}"
                raise ImageError(message, cause="corrupt") from error
    raise ImageError(f"{len(data)} bytes are no NPY, TIFF or PNG, which hold raw values", cause="format")


def _npy(data: bytes, demand: Demand) -> Array:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in _NPY_READERS:
        raise ImageError(f"NPY has format {version[0]}.{version[1]}; 1.0 and 2.0 are known", cause="format")
    shape, by_columns, dtype = _NPY_READERS[version](file, max_header_size=_NPY_HEADER)
    if dtype.hasobject:
        raise ImageError("NPY holds pickled objects, which are never loaded", cause="mode")
    demand(shape, dtype)
    needed, got = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if got != needed:
        raise ImageError(f"NPY has {got} bytes of values; {needed} are needed", cause="corrupt")
    values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if by_columns else "C")


def _tiff(data: bytes, demand: Demand) -> Array:
    try:
        import tifffile
    except ModuleNotFoundError:
        message = "TIFF needs tifffile, which is not installed: add vitral[tiff]"
        raise ImageError(message, cause="format") from None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        _check_tiff(file, page)
        dtype = np.dtype(page.dtype).newbyteorder(file.byteorder)
        planar = page.axes == "SYX"
        shape = (*page.shape[1:], page.shape[0]) if planar else page.shape
        demand(shape, dtype)
        start = page.dataoffsets[0]
    if start + math.prod(shape) * dtype.itemsize > len(data):
        raise ImageError(f"TIFF of {len(data)} bytes is cut short", cause="corrupt")
    values = np.frombuffer(data, dtype, math.prod(shape), start)
    return np.moveaxis(values.reshape(page.shape), 0, -1) if planar else values.reshape(shape)


def _check_tiff(file: Any, page: Any) -> None:
    """Refuses what would not be the plain numbers of one image."""
    problems = {
        "several pages; one is taken": _has_more(file),
        f"compression {page.compression!s}; uncompressed is taken": page.compression != 1,
        "a palette": page.photometric == _PALETTE,
        "an orientation of its own": _turned(page.tags),
        f"axes {page.axes}": page.axes not in ("YX", "YXS", "SYX"),
        "no plain values: predictor, fill order or bits": not page.is_final,
    }
    for problem, wrong in problems.items():
        if wrong:
            raise ImageError(f"TIFF has {problem}", cause="mode")


def _has_more(file: Any) -> bool:
    """Whether there is a second page; ImageJ writes many pictures behind the header of one."""
    if file.is_imagej and (file.imagej_metadata or {}).get("images", 1) != 1:
        return True
    try:
        file.pages[1]
    except IndexError:
        return False
    return True


def _turned(tags: Any) -> bool:
    tag = tags.get(_ORIENTATION)
    return tag is not None and tag.value != 1


def _png(data: bytes, demand: Demand) -> Array:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)  # of the header, which comes first
    if colour != _PNG_GREY or depth not in _PNG_DEPTHS:
        kind = f"{depth} bits and colour type {colour}"
        raise ImageError(f"PNG has {kind}; grey of 8 or 16 bits is taken", cause="mode")
    demand((height, width), np.dtype(np.uint8 if depth == 8 else np.uint16))
    image = Image.open(io.BytesIO(data), formats=("PNG",))
    if data[12:16] != b"IHDR" or image.size != (width, height):
        raise ImageError("PNG does not begin with its own header", cause="corrupt")
    if image.getexif().get(_ORIENTATION, 1) != 1:
        raise ImageError("PNG has an orientation of its own", cause="mode")
    return np.asarray(image)


_READERS: Mapping[bytes, Callable[[bytes, Demand], Array]] = MappingProxyType(
    {
        _NPY_MAGIC: _npy,
        b"II*\0": _tiff,
        b"MM\0*": _tiff,
        b"II+\0": _tiff,
        b"MM\0+": _tiff,
        b"\x89PNG\r\n\x1a\n": _png,
    }
)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
