"""A written graph that is opened, spoiled and written back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from vitral.spec import WEIGHTS
from vitral.tensors import Array

FLOAT, UINT8 = "model.onnx", "model_uint8.onnx"
BOTH = (FLOAT, UINT8)


class Written:
    """One graph of a version folder, and the weights it takes.

    Attributes:
        folder: the version folder.
        graph: the graph; `save` writes it back.
    """

    def __init__(self, folder: Path, file: str) -> None:
        self.folder = folder
        self._file = folder / file
        self._model = onnx.load(self._file, load_external_data=False)
        self.graph = self._model.graph
        del self.graph.value_info[:]  # a fault that contradicted it would be too easy to see

    def save(self) -> None:
        """Writes the graph back."""
        self._file.write_bytes(self._model.SerializeToString(deterministic=True))

    def node(self, name: str) -> onnx.NodeProto:
        """The node of this name."""
        return next(node for node in self.graph.node if node.name == name)

    def constant(self, name: str) -> Array:
        """A tensor that is held in the graph itself."""
        return numpy_helper.to_array(self._initializer(name)).copy()

    def set_constant(self, name: str, array: Array) -> None:
        """Replaces a tensor that is held in the graph itself, or adds one."""
        new = numpy_helper.from_array(array, name)
        if any(item.name == name for item in self.graph.initializer):
            self._initializer(name).CopyFrom(new)
        else:
            self.graph.initializer.append(new)

    def change_weight(self, name: str, change: Callable[[NDArray[np.float32]], None]) -> None:
        """Changes a tensor inside weights.bin, for every graph that takes it."""
        item = self._initializer(name)
        told = {entry.key: entry.value for entry in item.external_data}
        shape = tuple(item.dims)
        weight = np.memmap(self.folder / WEIGHTS, np.float32, "r+", offset=int(told["offset"]), shape=shape)
        change(weight)
        weight.flush()

    def change_attribute(self, node: str, name: str, value: Any) -> None:
        """Sets an attribute of a node."""
        told = self.node(node)
        kept = [item for item in told.attribute if item.name != name]
        del told.attribute[:]
        told.attribute.extend([*kept, helper.make_attribute(name, value)])

    def put_behind(
        self, name: str, kind: str, *, more: Sequence[str] = (), attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Puts a new node behind another: what took the other's result takes the new one's."""
        before = self.node(name)
        result = before.output[0]
        before.output[0] = f"{result}_before"
        at = list(self.graph.node).index(before) + 1
        self._insert(at, kind, [before.output[0], *more], result, attributes or {})

    def put_before(
        self,
        name: str,
        kind: str,
        takes: Sequence[str],
        gives: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Puts a new node before another, which does not take its result by itself."""
        at = list(self.graph.node).index(self.node(name))
        self._insert(at, kind, takes, gives, attributes or {})

    def leave_out(self, name: str, *, keep: int = 0) -> None:
        """Takes a node out: what took its result takes its operand number `keep`, an output included."""
        gone = self.node(name)
        given, result = gone.input[keep], gone.output[0]
        self.graph.node.remove(gone)
        for node in self.graph.node:
            node.input[:] = [result if item == given else item for item in node.input]
            node.output[:] = [result if item == given else item for item in node.output]

    def _insert(
        self, at: int, kind: str, takes: Sequence[str], gives: str, attributes: Mapping[str, Any]
    ) -> None:
        new = helper.make_node(kind, takes, [gives], name=f"planted/{gives}")
        new.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.graph.node.insert(at, new)

    def _initializer(self, name: str) -> onnx.TensorProto:
        return next(item for item in self.graph.initializer if item.name == name)


@dataclass(frozen=True)
class Fault:
    """A fault and where it goes.

    Attributes:
        name: short.
        model: one of `benchmarks.faults.models.MODELS`.
        what: what is wrong, in a few words.
        files: the graphs that are wrong afterwards.
        change: plants it into one graph.
        shared: it changes tensors that all these graphs take, so that once is enough.
    """

    name: str
    model: str
    what: str
    files: tuple[str, ...]
    change: Callable[[Written], None]
    shared: bool = False

    def plant(self, folder: Path) -> None:
        """Spoils the files of a version folder."""
        for file in self.files[:1] if self.shared else self.files:
            written = Written(folder, file)
            self.change(written)
            written.save()


def scaled(weight: NDArray[np.float32]) -> None:
    """A whole tensor x 1.001."""
    weight *= np.float32(1.001)


def scalar_scaled(weight: NDArray[np.float32]) -> None:
    """One scalar of median size x 1.001."""
    weight.flat[_median(weight)] *= np.float32(1.001)


def last_bit(weight: NDArray[np.float32]) -> None:
    """One scalar of median size to the next float32."""
    at = _median(weight)
    weight.flat[at] = np.nextafter(weight.flat[at], np.float32(9))


def nan(weight: NDArray[np.float32]) -> None:
    """One NaN."""
    weight.flat[5] = np.nan


def _median(weight: NDArray[np.float32]) -> int:
    return int(np.argsort(np.abs(weight), axis=None)[weight.size // 2])
