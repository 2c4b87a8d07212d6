"""An ONNX file that someone else wrote, read whole: nothing in it is believed before it is seen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from vitral.errors import InvalidArgumentError
from vitral_export import checkpoint
from vitral_export.preprocessor_config import FILE as PREPROCESSOR

PREFIX = "onnx:"
"""What the names of these sources begin with."""

SUMMARY = "an ONNX file that someone else exported: proven with --reference SOURCE, else unproven"
"""What such a source is, in one line."""

OPSETS = range(11, 24)
"""Operator sets of files that are adopted."""

_CONFIG = "config.json"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class OnnxFile:
    """A file with everything that lies beside it.

    Attributes:
        name: as it was asked for, `onnx:...`.
        reference: how a spec calls it: the last parts of its path, without the machine's own.
        model: the file, its external weights inside.
        opset: of ONNX itself.
        sha256: of the file and those it leads to.
        config: what config.json says; empty where there is none.
        preprocessor: what preprocessor_config.json says; None where there is none.
    """

    name: str
    reference: str
    model: onnx.ModelProto
    opset: int
    sha256: str
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any] | None


def read(name: str) -> OnnxFile:
    """The file of `onnx:FILE`.

    Raises:
        InvalidArgumentError: it is no ONNX file, or some of it is missing, outside its folder, or no number.
    """
    path = Path(name.removeprefix(PREFIX)).expanduser()
    if not path.is_file():
        what = "is a folder: name the .onnx file in it" if path.is_dir() else "is no file"
        raise InvalidArgumentError(f"{name} {what}")
    model = _parsed(path, name)
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise InvalidArgumentError(f"{name} is of opset {opset}; {OPSETS[0]} to {OPSETS[-1]} are adopted")
    outside = _take_in(model, path.parent, name)
    _demand_numbers(model, name)
    return OnnxFile(
        name=name,
        reference=_reference(path),
        model=model,
        opset=opset,
        sha256=checkpoint.sha256([path, *outside]),
        config=_beside(path, _CONFIG, name) or {},
        preprocessor=_beside(path, PREPROCESSOR, name),
    )


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph, and those inside its nodes."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for item in (item for node in graph.node for item in node.attribute):
            waiting += [*item.graphs, *([item.g] if item.HasField("g") else [])]


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every constant tensor."""
    for graph in graphs(model):
        yield from graph.initializer
        for item in (item for node in graph.node for item in node.attribute):
            yield from item.tensors
            if item.HasField("t"):
                yield item.t


def _parsed(path: Path, name: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise InvalidArgumentError(f"{name} is not an ONNX file") from None
    except OSError as error:
        raise InvalidArgumentError(f"{name} cannot be read: {error.strerror}") from None
    if not model.graph.node:
        raise InvalidArgumentError(f"{name} is not an ONNX file: it holds no graph")
    try:
        text = all(isinstance(word, str) for word in _words(model))
    except UnicodeDecodeError:
        text = False
    if not text:
        raise InvalidArgumentError(f"{name} is damaged: a name in it is no text")
    return model


def _words(model: onnx.ModelProto) -> Iterator[object]:
    """Every name, which protobuf gives as bytes, or not at all, where it is no text."""
    for graph in graphs(model):
        yield from (item.name for item in (*graph.input, *graph.output))
        yield from (item.name for item in graph.initializer)
        for node in graph.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (item.name for item in node.attribute)


def _take_in(model: onnx.ModelProto, folder: Path, name: str) -> list[Path]:
    """Puts external weights into the model, and returns their files.

    By hand: the files of a downloaded checkpoint are links into a cache, which onnx's own loader refuses.
    """
    opened: dict[Path, NDArray[np.uint8]] = {}
    for item in tensors(model):
        if item.data_location != TensorProto.EXTERNAL:
            continue
        told = {entry.key: entry.value for entry in item.external_data}
        file = _inside(folder, told.get("location", ""), item.name, name)
        if file not in opened:
            empty = not file.stat().st_size  # which cannot be mapped
            opened[file] = np.zeros(0, np.uint8) if empty else np.memmap(file, np.uint8, "r")
        data = opened[file]
        try:
            offset, length = int(told.get("offset", 0)), int(told.get("length", -1))
        except ValueError:
            raise InvalidArgumentError(f"{name}: {item.name} has no place in {file.name}") from None
        end = offset + length if length >= 0 else len(data)
        if not 0 <= offset <= end <= len(data):
            told_end = f"{item.name} ends at byte {end} of {file.name}, which has {len(data)}"
            raise InvalidArgumentError(f"{name}: {told_end}")
        item.raw_data = data[offset:end].tobytes()
        del item.external_data[:]
        item.ClearField("data_location")
    return list(opened)


def _inside(folder: Path, location: str, tensor: str, name: str) -> Path:
    """The file of external weights, which has to be in the folder or below it."""
    where = PurePosixPath(location.replace("\\", "/"))
    if not location or where.is_absolute() or ".." in where.parts or ":" in location:
        told = f"{tensor} has its values in {location!r}, which leaves the folder"
        raise InvalidArgumentError(f"{name}: {told}")
    file = folder / where
    if not file.is_file():
        raise InvalidArgumentError(f"{name}: {tensor} has its values in {location}, which is missing")
    return file


def _demand_numbers(model: onnx.ModelProto, name: str) -> None:
    """Refuses weights that are not whole, NaN or Inf."""
    for item in tensors(model):
        try:
            array = numpy_helper.to_array(item)
        except Exception as error:  # whatever a type or a length that cannot be makes of it
            said = " ".join(str(error).split())
            raise InvalidArgumentError(f"{name}: {item.name} cannot be read: {said}") from None
        if item.data_type not in _FLOATS:
            continue
        wide = array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
        if bad := int(np.count_nonzero(np.isnan(wide))):
            raise InvalidArgumentError(f"{name}: {item.name} holds NaN in {bad} of {array.size} elements")
        if array.ndim and (bad := int(np.count_nonzero(np.isinf(wide)))):  # a scalar may be a mask's -Inf
            raise InvalidArgumentError(f"{name}: {item.name} holds Inf in {bad} of {array.size} elements")


def _reference(path: Path) -> str:
    """`vit-base/onnx/model.onnx`, `vit-base/model.onnx`."""
    parts = Path(os.path.abspath(path)).parent.parts[1:]  # not resolved: a cache's blobs are called by hashes
    shown = 2 if parts[-1:] == ("onnx",) else 1
    return "/".join([*parts[-shown:], path.name])


def _beside(path: Path, file: str, name: str) -> Mapping[str, Any] | None:
    """A JSON object in the file's folder, or one up, as transformers.js has it."""
    for folder in (path.parent, path.parent.parent):
        if not (folder / file).is_file():
            continue
        try:
            held = json.loads((folder / file).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidArgumentError(f"{name}: {file} beside it cannot be read: {error}") from None
        if not isinstance(held, dict):
            raise InvalidArgumentError(f"{name}: {file} beside it holds no JSON object")
        return held
    return None
