"""What a stranger's graph takes and gives, seen by running it once, before anything else is done with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import EncodeError
from onnx import TensorProto

from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.tensors import Array
from vitral_export.onnx_file import OnnxFile

Shape = tuple[int, ...]
"""Extents behind the batch."""

_BATCHES = (1, 2, 3)
_SAID = 300  # characters of a stranger's message


@dataclass(frozen=True)
class Image:
    """The input of a graph, as the file has it.

    Attributes:
        name: of the tensor.
        channels: 0 where they are not said.
        size: height and width; None where they are not said.
    """

    name: str
    channels: int
    size: tuple[int, int] | None


def image_of(file: OnnxFile, graph: onnx.GraphProto) -> Image:
    """The one input: float32 (B, C, H, W).

    Raises:
        InvalidArgumentError: it takes something else, or its batch is frozen.
    """
    names = [item.name for item in graph.input]
    if len(names) != 1:
        told = f"{file.name} takes {len(names)} tensors ({', '.join(names) or 'none'})"
        raise InvalidArgumentError(f"{told}, one image is expected")
    tensor = graph.input[0].type.tensor_type
    dims = list(tensor.shape.dim)
    if tensor.elem_type != TensorProto.FLOAT or len(dims) != 4:
        known = {number: word.lower() for word, number in TensorProto.DataType.items()}
        kind = known.get(tensor.elem_type, "of no known type")
        told = f"{file.name}: {names[0]} is {kind} of {len(dims)} axes"
        raise InvalidArgumentError(f"{told}, float32 (B, C, H, W) is expected")
    if dims[0].dim_value:
        told = f"{file.name}: the batch of {names[0]} is frozen at {dims[0].dim_value}"
        raise InvalidArgumentError(f"{told}: it has to be exported with a dynamic one")
    height, width = dims[2].dim_value, dims[3].dim_value
    return Image(names[0], dims[1].dim_value, (height, width) if height and width else None)


def run(file: OnnxFile, model: onnx.ModelProto, shape: tuple[int, int, int]) -> dict[str, Shape]:
    """Extents of each output behind the batch, which is as large as that of the input.

    Raises:
        InvalidArgumentError: it cannot be opened, or does not run for these images or for every batch.
        UnsupportedError: an output is no float32 with a batch axis.
    """
    session = _session(file, model)
    rows = np.random.default_rng(0).standard_normal((max(_BATCHES), *shape)).astype(np.float32)
    found = {batch: _run(file, session, rows[:batch]) for batch in _BATCHES}
    ran = [batch for batch, got in found.items() if not isinstance(got, str)]
    if ran != list(_BATCHES):
        batch, said = next((batch, got) for batch, got in found.items() if isinstance(got, str))
        if ran:
            told = f"it runs for {ran[0]} and not for {batch} images: {said}"
            raise InvalidArgumentError(f"{file.name}: the batch is frozen inside, {told}")
        what = " x ".join(map(str, shape))
        raise InvalidArgumentError(f"{file.name} does not run for images of {what}: {said}")
    return {name: _extents(file, name, found) for name in found[_BATCHES[0]]}


def _session(file: OnnxFile, model: onnx.ModelProto) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    try:
        data = model.SerializeToString()
    except (EncodeError, ValueError):
        raise UnsupportedError(f"{file.name} holds more than the 2 GB that one message of ONNX may") from None
    try:
        # Without fallback: onnxruntime would print a banner and try the same again.
        return ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # onnxruntime raises classes of its own for every fault
        raise InvalidArgumentError(f"{file.name}: onnxruntime cannot open it: {_said(error)}") from error


def _run(file: OnnxFile, session: ort.InferenceSession, rows: Array) -> dict[str, Array] | str:
    """Every output by name, or what was said instead."""
    names = [item.name for item in session.get_outputs()]
    try:
        got: list[Any] = session.run(names, {session.get_inputs()[0].name: rows})
    except Exception as error:  # as above
        return _said(error)
    return dict(zip(names, got, strict=True))


def _extents(file: OnnxFile, name: str, found: dict[int, dict[str, Array] | str]) -> Shape:
    arrays = {batch: got[name] for batch, got in found.items() if isinstance(got, dict)}
    extents = set()
    for batch, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim < 2:
            kind = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            told = f"{file.name}: output {name} is {kind}"
            raise UnsupportedError(f"{told}; float32 with a batch axis is needed: --outputs chooses others")
        if len(array) != batch:
            told = f"the batch is frozen inside, {name} has {len(array)} rows for {batch} images"
            raise InvalidArgumentError(f"{file.name}: {told}")
        extents.add(array.shape[1:])
    if len(extents) > 1:
        told = f"{name} has other extents for other batches: {sorted(extents)}"
        raise UnsupportedError(f"{file.name}: {told}")
    (shape,) = extents
    return tuple(map(int, shape))


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:_SAID]
