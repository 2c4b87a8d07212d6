"""Whether a request fits its model: names, types, shapes, sizes. Errors in Triton's words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vitral import dynamic
from vitral.errors import InvalidArgumentError
from vitral.tensors import ITEM_BYTES
from vitral_server.kserve.catalogue import Entry, Face, outputs_of
from vitral_server.kserve.contents import Find
from vitral_server.kserve.datatype import TensorType, known
from vitral_server.kserve.region import Slice
from vitral_server.kserve.request import Request, range_of, refuse_classes
from vitral_server.kserve.status import RegionMemoryError

_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended "
    "to each input shape. If you want to specify the full shape including the batch dim in your input dims "
    "config, try setting max_batch_size to zero. See the model configuration docs for more info on "
    "max_batch_size."
)


def once_each(request: Request) -> None:
    """Refuses two inputs of one name.

    Raises:
        InvalidArgumentError: with the name.
    """
    names: set[str] = set()
    for tensor in request.message.inputs:
        if tensor.name in names:
            raise InvalidArgumentError(f"{request.prefix}input '{tensor.name}' already exists in request")
        names.add(tensor.name)


def places(request: Request, *, find: Find) -> dict[str, Slice]:
    """Output name to the shared memory it goes to, of those that go there.

    Raises:
        UnsupportedError: class labels are wanted.
        VitralError: there is no such memory.
    """
    found = {}
    for tensor in request.message.outputs:
        refuse_classes(tensor)
        if (where := range_of(tensor)) is not None:
            found[tensor.name] = find(where)
    return found


def outputs(request: Request, entry: Entry, face: Face) -> list[TensorType]:
    """The outputs that are wanted, each once, in the order of their names; all where none is named.

    Raises:
        InvalidArgumentError: the model has no such output.
    """
    wanted = [tensor.name for tensor in request.message.outputs]
    for name in wanted:
        if name not in face.outputs:
            raise InvalidArgumentError(f"unexpected inference output '{name}' for model '{entry.name}'")
    return [face.outputs[name] for name in sorted(set(wanted) or face.outputs)]


def the_input(request: Request, entry: Entry, face: Face, *, most: int) -> tuple[int, ...]:
    """The shape of the one input.

    Args:
        request: with its inputs.
        entry: the model.
        face: how it looks.
        most: images of one request where the model's own config has no limit.

    Raises:
        InvalidArgumentError: it is not the model's input, or not of its type or shape.
    """
    prefix, kind, model = request.prefix, face.input, f"for model '{entry.name}'"
    inputs = request.message.inputs
    for tensor in inputs if len(inputs) == 1 else ():
        if tensor.name != kind.name:
            raise InvalidArgumentError(f"unexpected inference input '{tensor.name}' {model}")
    if len(inputs) != 1:
        names = sorted(tensor.name for tensor in inputs)
        got, missing = _list(names), _list([] if kind.name in names else [kind.name])
        told = f"expected 1 inputs but got {len(inputs)} inputs {model}. Got input(s) {got}"
        raise InvalidArgumentError(
            f"{prefix}{told}, but missing required input(s) {missing}. Please provide all required input(s)."
        )
    [tensor] = inputs
    shape = tuple(tensor.shape)
    _batch(shape, request, entry, face)
    if tensor.datatype != kind.datatype:
        told = f"inference input '{kind.name}' data-type is '{known(tensor.datatype)}', but model"
        raise InvalidArgumentError(f"{prefix}{told} '{entry.name}' expects '{kind.datatype}'")
    _shape(shape, request, entry, face, most)
    return shape


def sized(outputs: Sequence[TensorType], entry: Entry, shape: Sequence[int]) -> list[TensorType]:
    """The outputs with their extents for an input of this shape, for a model of dynamic size.

    Raises:
        InvalidArgumentError: the model does not take this size.
    """
    engine = entry.served.engine
    if engine is None or not any(-1 in kind.dims for kind in outputs):
        return list(outputs)
    known = outputs_of(engine.at(dynamic.of_row(engine.spec, shape[1:])).spec)
    return [known[kind.name] for kind in outputs]


def room(places: Mapping[str, Slice], rows: int, outputs: Sequence[TensorType]) -> None:
    """Refuses shared memory that is too small for so many rows of its output.

    Raises:
        RegionMemoryError: with both numbers.
    """
    for kind in outputs:
        if (place := places.get(kind.name)) is None:
            continue
        needed = rows * math.prod(kind.dims) * ITEM_BYTES[kind.dtype]
        if needed > place.nbytes:
            name, size = kind.name, place.nbytes
            told = f"shared memory size specified with the request for output '{name}' ({size} bytes)"
            raise RegionMemoryError(f"{told} should be at least {needed} bytes to hold the results")


def size(request: Request, entry: Entry, face: Face, shape: tuple[int, ...], got: int) -> None:
    """Refuses another number of bytes than the shape takes.

    Raises:
        InvalidArgumentError: with both.
    """
    expected = math.prod(shape) * ITEM_BYTES[face.input.dtype]
    if got != expected:
        told = f"input byte size mismatch for input '{face.input.name}' for model '{entry.name}'"
        raise InvalidArgumentError(f"{request.prefix}{told}. Expected {expected}, got {got}")


def _batch(shape: tuple[int, ...], request: Request, entry: Entry, face: Face) -> None:
    most = face.max_batch_size
    if most and not shape:
        told = f"input '{face.input.name}' has no shape but model requires batch dimension for '{entry.name}'"
        raise InvalidArgumentError(request.prefix + told)
    if most and shape[0] > most:
        told = f"inference request batch-size must be <= {most} for '{entry.name}'"
        raise InvalidArgumentError(request.prefix + told)


def _shape(shape: tuple[int, ...], request: Request, entry: Entry, face: Face, most: int) -> None:
    prefix, what = request.prefix, f"input '{face.input.name}' for model '{entry.name}'"
    expected = (-1, *face.input.dims) if face.max_batch_size else face.input.dims
    pairs = zip(expected[1:], shape[1:], strict=False)
    told = f"unexpected shape for {what}. Expected {_dims(expected)}, got {_dims(shape)}"
    if len(shape) != len(expected) or not all(want in (-1, have) for want, have in pairs):
        raise InvalidArgumentError(f"{prefix}{told}. {_NOTE if face.max_batch_size else ''}".rstrip())
    if shape[0] < 1:
        raise InvalidArgumentError(f"{prefix}{told}. At least one row is needed")
    if shape[0] > most:
        raise InvalidArgumentError(f"{prefix}{what} has {shape[0]} images; the limit is {most}")


def _dims(shape: Any) -> str:
    return f"[{','.join(map(str, shape))}]"


def _list(names: list[str]) -> str:
    quoted = ",".join(f"'{name}'" for name in names)
    return f"[{quoted}]"
