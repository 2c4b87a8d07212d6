"""Faults planted into the written graphs of an export, between export and verification."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from vitral.spec import WEIGHTS
from vitral_export.fold import folded_weights
from vitral_export.preprocessing import default

FLOAT, UINT8 = "model.onnx", "model_uint8.onnx"


def nan_weight(folder: Path) -> None:
    def spoil(weight: NDArray[np.float32]) -> None:
        weight.flat[5] = np.nan

    change_weight(folder, FLOAT, "projection.weight", spoil)


def batch_frozen_in_the_signature(folder: Path) -> None:
    model = load(folder, FLOAT)
    for item in (model.graph.input[0], model.graph.output[0]):
        item.type.tensor_type.shape.dim[0].dim_value = 2
    del model.graph.value_info[:]
    save(folder, FLOAT, model)


def batch_frozen_in_a_reshape(folder: Path) -> None:
    model = load(folder, FLOAT)
    del model.graph.value_info[:]
    shape = next(item for item in model.graph.initializer if item.data_type == onnx.TensorProto.INT64)
    target = numpy_helper.to_array(shape).copy()
    target[0] = 2
    shape.CopyFrom(numpy_helper.from_array(target, shape.name))
    save(folder, FLOAT, model)


def rows_and_columns_swapped(folder: Path) -> None:
    model = load(folder, FLOAT)
    del model.graph.value_info[:]
    conv = model.graph.node[0]
    after = helper.make_node("Transpose", ["grid"], list(conv.output), "grid/Transpose", perm=[0, 1, 3, 2])
    conv.output[:] = ["grid"]
    model.graph.node.insert(1, after)
    save(folder, FLOAT, model)


def wrong_mean_and_std(folder: Path) -> None:
    told = default(32)
    told.mean[:], told.std[:] = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    refold(folder, lambda weight, bias: folded_weights(weight, bias, told))


def wrong_mean(folder: Path) -> None:
    told = default(32)
    told.mean[:] = [0.5, 0.5, 0.4999]
    refold(folder, lambda weight, bias: folded_weights(weight, bias, told))


def folded_around_127(folder: Path) -> None:
    model = load(folder, UINT8)
    centre = next(item for item in model.graph.initializer if item.name == "pixels_centre")
    centre.CopyFrom(numpy_helper.from_array(np.array(127, np.float32), centre.name))
    save(folder, UINT8, model)


def bgr_for_rgb(folder: Path) -> None:
    def swap(weight: NDArray[np.float32]) -> None:
        weight[:] = weight[:, ::-1].copy()

    change_weight(folder, UINT8, "projection.weight.folded", swap)


def tensor_scaled(folder: Path) -> None:
    def scale(weight: NDArray[np.float32]) -> None:
        weight *= np.float32(1.001)

    change_weight(folder, FLOAT, "projection.weight", scale)


def folded_tensor_scaled(folder: Path) -> None:
    def scale(weight: NDArray[np.float32]) -> None:
        weight *= np.float32(1.001)

    change_weight(folder, UINT8, "projection.weight.folded", scale)


def scalar_changed(folder: Path) -> None:
    def scale(weight: NDArray[np.float32]) -> None:
        weight.flat[_median(weight)] *= np.float32(1.001)

    change_weight(folder, FLOAT, "projection.weight", scale)


def folded_scalar_changed(folder: Path) -> None:
    def scale(weight: NDArray[np.float32]) -> None:
        weight.flat[_median(weight)] *= np.float32(1.001)

    change_weight(folder, UINT8, "projection.weight.folded", scale)


def last_bit_changed(folder: Path) -> None:
    def nudge(weight: NDArray[np.float32]) -> None:
        at = _median(weight)
        weight.flat[at] = np.nextafter(weight.flat[at], np.float32(9))

    change_weight(folder, FLOAT, "projection.weight", nudge)


FAULTS: dict[str, Callable[[Path], None]] = {
    item.__name__: item
    for item in (
        nan_weight,
        batch_frozen_in_the_signature,
        batch_frozen_in_a_reshape,
        rows_and_columns_swapped,
        wrong_mean_and_std,
        wrong_mean,
        folded_around_127,
        bgr_for_rgb,
        tensor_scaled,
        folded_tensor_scaled,
        scalar_changed,
        folded_scalar_changed,
        last_bit_changed,
    )
}


def load(folder: Path, file: str) -> onnx.ModelProto:
    return onnx.load(folder / file, load_external_data=False)


def save(folder: Path, file: str, model: onnx.ModelProto) -> None:
    (folder / file).write_bytes(model.SerializeToString(deterministic=True))


def change_weight(folder: Path, file: str, name: str, change: Callable[[NDArray[np.float32]], None]) -> None:
    """Changes a tensor inside weights.bin."""
    item = next(item for item in load(folder, file).graph.initializer if item.name == name)
    told = {entry.key: entry.value for entry in item.external_data}
    where = {"offset": int(told["offset"]), "shape": tuple(item.dims)}
    weight = np.memmap(folder / WEIGHTS, np.float32, "r+", **where)
    change(weight)
    weight.flush()


def refold(folder: Path, fold: Callable[..., tuple[NDArray[np.float32], NDArray[np.float32]]]) -> None:
    """Replaces the folded tensors by those of another folding."""
    held = {item.name: numpy_helper.to_array(item) for item in onnx.load(folder / FLOAT).graph.initializer}
    pair = fold(held["projection.weight"], held["projection.bias"])
    for name, new in zip(("projection.weight.folded", "projection.bias.folded"), pair, strict=True):
        change_weight(folder, UINT8, name, lambda weight, new=new: np.copyto(weight, new))  # type: ignore[misc]


def _median(weight: NDArray[np.float32]) -> int:
    return int(np.argsort(np.abs(weight), axis=None)[weight.size // 2])
