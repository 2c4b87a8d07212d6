"""Whether a request fits its model: names, types, shapes, sizes. Errors in Triton's words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from vitral.errors import InvalidArgumentError
from vitral.tensors import ITEM_BYTES
from vitral_server.kserve.catalogue import Entry, Face
from vitral_server.kserve.datatype import KNOWN, TensorType
from vitral_server.kserve.region import Slice
from vitral_server.kserve.request import Range, Request, range_of, refuse_classification
from vitral_server.kserve.status import RegionMemoryError

Find = Callable[[Range], Slice]
"""The shared memory of a range."""

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


def outputs(request: Request, entry: Entry, face: Face) -> list[TensorType]:
    """The outputs that are wanted, each once, in the order of their names; all where none is named.

    Raises:
        InvalidArgumentError: the model has no such output.
        UnsupportedError: class labels are wanted.
    """
    wanted = request.message.outputs
    for tensor in wanted:
        refuse_classification(tensor)
        if tensor.name not in face.outputs:
            raise InvalidArgumentError(
                f"unexpected inference output '{tensor.name}' for model '{entry.name}'"
            )
    return [face.outputs[name] for name in sorted({tensor.name for tensor in wanted} or face.outputs)]


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
    if tensor.datatype != kind.datatype:
        said = tensor.datatype if tensor.datatype in KNOWN else "<invalid>"
        told = f"inference input '{kind.name}' data-type is '{said}', but model '{entry.name}'"
        raise InvalidArgumentError(f"{prefix}{told} expects '{kind.datatype}'")
    return _shape(tuple(tensor.shape), request, entry, face, most)


def targets(request: Request, shape: tuple[int, ...], face: Face, *, find: Find) -> dict[str, Slice]:
    """Output name to the shared memory it goes to, of those that go there.

    Raises:
        VitralError: there is no such memory, or it is too small.
    """
    found = {}
    for tensor in request.message.outputs:
        if (where := range_of(tensor)) is None:
            continue
        target, kind = find(where), face.outputs[tensor.name]
        needed = shape[0] * math.prod(kind.dims) * ITEM_BYTES[kind.dtype]
        if needed > target.nbytes:
            told = f"shared memory size specified with the request for output '{tensor.name}'"
            raise RegionMemoryError(
                f"{told} ({target.nbytes} bytes) should be at least {needed} bytes to hold the results"
            )
        found[tensor.name] = target
    return found


def size(request: Request, entry: Entry, face: Face, shape: tuple[int, ...], got: int) -> None:
    """Refuses another number of bytes than the shape takes.

    Raises:
        InvalidArgumentError: with both.
    """
    expected = math.prod(shape) * ITEM_BYTES[face.input.dtype]
    if got != expected:
        told = f"input byte size mismatch for input '{face.input.name}' for model '{entry.name}'"
        raise InvalidArgumentError(f"{request.prefix}{told}. Expected {expected}, got {got}")


def _shape(shape: tuple[int, ...], request: Request, entry: Entry, face: Face, most: int) -> tuple[int, ...]:
    prefix, name, batched = request.prefix, face.input.name, face.max_batch_size
    model = f"for model '{entry.name}'"
    if batched and not shape:
        told = f"input '{name}' has no shape but model requires batch dimension for '{entry.name}'"
        raise InvalidArgumentError(prefix + told)
    if batched and shape[0] > batched:
        told = f"inference request batch-size must be <= {batched} for '{entry.name}'"
        raise InvalidArgumentError(prefix + told)
    expected = (-1, *face.input.dims) if batched else face.input.dims
    fits = len(shape) == len(expected) and all(
        want in (-1, have) for want, have in zip(expected[1:], shape[1:], strict=True)
    )
    told = f"unexpected shape for input '{name}' {model}. Expected {_dims(expected)}, got {_dims(shape)}"
    if not fits:
        raise InvalidArgumentError(f"{prefix}{told}. {_NOTE if batched else ''}".rstrip())
    if shape[0] < 1:
        raise InvalidArgumentError(f"{prefix}{told}. At least one row is needed")
    if shape[0] > most:
        told = f"input '{name}' {model} has {shape[0]} images; the limit is {most}"
        raise InvalidArgumentError(prefix + told)
    return shape


def _dims(shape: Any) -> str:
    return f"[{','.join(map(str, shape))}]"


def _list(names: list[str]) -> str:
    quoted = ",".join(f"'{name}'" for name in names)
    return f"[{quoted}]"
