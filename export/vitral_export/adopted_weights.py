"""A reference's parameters looked for in a stranger's graph, bit for bit.

Another exporter writes another graph: constants are worked out, layers fused. Its weights it has to leave as
they are, or it would have computed with them. So each is found, as it is or moved, or it has been changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx
from onnx import numpy_helper

from vitral.tensors import Array
from vitral_export.onnx_file import tensors
from vitral_export.operations import Program


class Form(StrEnum):
    """How parameters are found."""

    PLAIN = "as they are"
    RESHAPED = "reshaped"
    TRANSPOSED = "transposed"
    BLOCK = "as blocks of larger tensors"
    ZERO = "left out, being 0"


@dataclass(frozen=True)
class Search:
    """What came of the search.

    Attributes:
        found: parameter to its form.
        missing: parameters that are nowhere.
        own: tensors of the graph, of more than one float, that are none of the parameters.
    """

    found: Mapping[str, Form]
    missing: tuple[str, ...]
    own: tuple[str, ...]

    def by_form(self) -> dict[str, list[str]]:
        """Parameters by how they were found."""
        return {form: [name for name, its in self.found.items() if its == form] for form in Form}

    def __str__(self) -> str:
        """`38 parameters: 20 as they are, 18 transposed`."""
        said = {form: len(names) for form, names in self.by_form().items() if names}
        return ", ".join(f"{count} {form}" for form, count in said.items())


def kinds(model: onnx.ModelProto) -> set[str]:
    """Element types of the weights; integers of 64 bits are extents and indices."""
    held = {item.data_type for item in tensors(model) if math.prod(item.dims) > 1}
    names = {kind: onnx.helper.tensor_dtype_to_string(kind).rpartition(".")[2].lower() for kind in held}
    return {"float32" if name == "float" else name for name in names.values()} - {"int64", "bool"}


def needed(program: Program, parameters: Mapping[str, Array]) -> dict[str, Array]:
    """The parameters that the steps take, and what they take that is worked out of parameters alone."""
    found: dict[str, Array] = {}
    for weight in program.weights():
        if weight.array.dtype.kind != "f" or not set(weight.name.split(" + ")) & parameters.keys():
            continue
        own = parameters.get(weight.name)
        whole = own is not None and own.size == weight.array.size
        name, array = weight.name, own if own is not None and whole else weight.array
        count = 1
        while name in found and not _same(found[name], array):
            count += 1
            name = f"{weight.name} ({count})"
        found[name] = array
    return found


def search(model: onnx.ModelProto, wanted: Mapping[str, Array]) -> Search:
    """Looks for every parameter in a graph whose weights are inside."""
    held = {item.name: array for item, array in _floats(model)}
    by_bytes: dict[bytes, list[str]] = {}
    for name, array in held.items():
        by_bytes.setdefault(array.tobytes(), []).append(name)
    found: dict[str, Form] = {}
    used: set[str] = set()
    for name, array in wanted.items():
        form, places = _found(array, held, by_bytes)
        if form is not None:
            found[name] = form
            used |= places
    own = tuple(name for name, array in held.items() if name not in used and array.size > 1)
    return Search(found, tuple(name for name in wanted if name not in found), own)


def _floats(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, Array]]:
    for item in tensors(model):
        if item.data_type == onnx.TensorProto.FLOAT:
            yield item, np.ascontiguousarray(numpy_helper.to_array(item))


def _found(
    array: Array, held: Mapping[str, Array], by_bytes: Mapping[bytes, list[str]]
) -> tuple[Form | None, set[str]]:
    """How a parameter is there, and the tensors that have it."""
    if places := by_bytes.get(array.tobytes()):
        plain = any(held[name].shape == array.shape for name in places)
        return (Form.PLAIN if plain else Form.RESHAPED), set(places)
    turned = np.ascontiguousarray(array.T)
    if array.ndim > 1 and (places := by_bytes.get(turned.tobytes())):
        return Form.TRANSPOSED, set(places)
    if blocks := {name for name, larger in held.items() if _is_block(array, larger)}:
        return Form.BLOCK, blocks
    return (Form.ZERO, set()) if not array.any() else (None, set())


def _is_block(array: Array, larger: Array) -> bool:
    """Whether a larger tensor is this one and others, side by side along one axis: fused attention."""
    if not array.ndim == larger.ndim <= 2 or array.size >= larger.size or array.size < 2:
        return False
    for one in (array, array.T) if array.ndim == 2 else (array,):
        for axis in range(one.ndim):
            rest = one.shape[:axis] + one.shape[axis + 1 :] == larger.shape[:axis] + larger.shape[axis + 1 :]
            if not rest or larger.shape[axis] % one.shape[axis]:
                continue
            parts = np.split(larger, larger.shape[axis] // one.shape[axis], axis=axis)
            if any(_same(np.ascontiguousarray(part), np.ascontiguousarray(one)) for part in parts):
                return True
    return False


def _same(one: Array, other: Array) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()
