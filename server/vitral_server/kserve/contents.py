"""The values of a request's inputs, wherever they are."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from vitral.errors import InvalidArgumentError
from vitral.tensors import numpy_dtype
from vitral_server.kserve.datatype import TYPED, TensorType, known
from vitral_server.kserve.region import Slice
from vitral_server.kserve.request import Range, Request, range_of

Typed: TypeAlias = Sequence[Any]
"""Values spelt out one by one."""

Source: TypeAlias = memoryview | Slice | Typed
"""Where the values of an input are: raw in the message, in shared memory, or spelt out."""

Find: TypeAlias = Callable[[Range], Slice]
"""The shared memory that a caller names."""

_LENGTH = struct.Struct("<I")


def sources(request: Request, model: str, *, find: Find) -> list[Source]:
    """Where each input's values are, in the order of the inputs.

    Raises:
        InvalidArgumentError: an input has none, or two.
        VitralError: there is no such shared memory.
    """
    raw, found = iter(request.raw), list[Source]()
    for tensor in request.message.inputs:
        where = f"'{tensor.name}' for model '{model}'"
        shared, spelt_out = range_of(tensor), tensor.HasField("contents")
        if shared is not None:
            if spelt_out:
                told = f"unexpected 'content' provided when using shared memory for input tensor {where}"
                raise InvalidArgumentError(told)
            found.append(find(shared))
        elif spelt_out:
            if request.raw:
                told = "contents field must not be specified when using raw_input_contents for"
                raise InvalidArgumentError(f"{told} {where}")
            found.append(_typed(tensor, where))
        elif (data := next(raw, None)) is not None:
            found.append(data)
        else:
            raise InvalidArgumentError(f"unable to find data for input tensor {where} in request.")
    return found


def size(source: Source, kind: TensorType) -> int:
    """Bytes of the values as raw contents; of strings without their lengths' bytes, where spelt out."""
    if isinstance(source, memoryview | Slice):
        return source.nbytes
    return len(source) * numpy_dtype(kind.dtype).itemsize if kind.dtype else sum(map(len, source))


def load(source: Source, kind: TensorType) -> memoryview:
    """The values of numbers as raw bytes; a copy unless they came so. Any thread may call it.

    Raises:
        RegionMemoryError: the shared memory is not there any more.
    """
    if isinstance(source, memoryview):
        return source
    if isinstance(source, Slice):
        return memoryview(source.read())
    # Not at once: NumPy refuses numbers that are too large for a small type, here they wrap as in C.
    return np.array(source).astype(numpy_dtype(kind.dtype)).data.cast("B")


def strings(source: Source, count: int, *, name: str) -> list[bytes]:
    """The byte strings of an input. Any thread may call it.

    Raises:
        InvalidArgumentError: there are too few or too many, or one is cut short.
        RegionMemoryError: the shared memory is not there any more.
    """
    if isinstance(source, Slice):
        source = memoryview(source.read())
    found = _unpacked(source, count, name) if isinstance(source, memoryview) else source
    if len(found) != count:
        more = "more than " if len(found) > count and isinstance(source, memoryview) else ""
        said = count if more else len(found)
        told = f"unexpected number of string elements {more}{said} for inference input '{name}'"
        raise InvalidArgumentError(f"{told}, expecting {count}")
    return list(found)


def _unpacked(data: memoryview, most: int, name: str) -> list[bytes]:
    """The strings, and at most one more than there should be."""
    at, end, found = 0, data.nbytes, list[bytes]()
    while at < end and len(found) <= most:
        if end - at < _LENGTH.size:
            told = f"incomplete string length indicator for inference input '{name}', expecting 4 bytes"
            raise InvalidArgumentError(f"{told} but only {end - at} bytes available")
        [length] = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > end - at:
            told = f"incomplete string data for inference input '{name}', expecting string of length {length}"
            raise InvalidArgumentError(f"{told} but only {end - at} bytes available")
        found.append(bytes(data[at : at + length]))
        at += length
    return found


def _typed(tensor: Any, where: str) -> Typed:
    """The values in the field of typed contents that has any."""
    found: Typed | None = None
    told = f"unexpected explicit tensor data for input tensor {where}"
    for field, values in tensor.contents.ListFields():
        if found is not None:
            raise InvalidArgumentError(f"{told}, binary data was already supplied.")
        kinds, said = TYPED[field.name], known(tensor.datatype)
        if said not in kinds:
            raise InvalidArgumentError(f"{told} of type '{kinds[0]}', expected datatype '{said}'")
        found = values
    return () if found is None else found
