"""Faults of a patch embedding: as a convolution, and cut by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.planting import (
    BOTH,
    FLOAT,
    UINT8,
    Fault,
    Written,
    last_bit,
    nan,
    scalar_scaled,
    scaled,
)
from vitral_export.fold import folded_weights
from vitral_export.preprocessing import default

_CONV, _HAND = "patch-embedding", "manual-patch-embedding"
_IMAGE = 32
_WEIGHT, _BIAS, _FOLDED = "projection.weight", "projection.bias", ".folded"


def _batch_in_the_signature(written: Written) -> None:
    for item in (written.graph.input[0], written.graph.output[0]):
        item.type.tensor_type.shape.dim[0].dim_value = 2


def _batch_in_a_reshape(written: Written, *, batch: int = 2) -> None:
    name = written.node("Reshape").input[1]
    written.set_constant(name, np.array([batch, *written.constant(name)[1:]], np.int64))


def _batch_of_three(written: Written) -> None:
    _batch_in_a_reshape(written, batch=3)


def _batch_between_reshapes(written: Written) -> None:
    """Frozen in a reshape whose result the next one brings into the right form again."""
    images, convolved = written.graph.input[0].name, written.node("Reshape").input[0]
    written.set_constant("two", np.array([2, 256], np.int64))
    written.set_constant("rest", np.array([16, 16], np.int64))
    written.put_before("Reshape", "Reshape", [convolved, "two"], "frozen")
    written.put_before("Reshape", "Shape", [images], "batch", {"start": 0, "end": 1})
    written.put_before("Reshape", "Concat", ["batch", "rest"], "shape", {"axis": 0})
    written.node("Reshape").input[:] = ["frozen", "shape"]


def _grid_turned(written: Written) -> None:
    written.put_behind("projection/Conv", "Transpose", attributes={"perm": [0, 1, 3, 2]})


def _wrong_mean_and_std(written: Written) -> None:
    _refold(written, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def _wrong_mean(written: Written) -> None:
    _refold(written, mean=[0.5, 0.5, 0.4999], std=[0.5, 0.5, 0.5])


def _around_127(written: Written) -> None:
    written.set_constant("pixels_centre", np.array(127, np.float32))


def _bgr(written: Written) -> None:
    def swap(weight: NDArray[np.float32]) -> None:
        weight[:] = weight[:, ::-1].copy()

    written.change_weight(_WEIGHT + _FOLDED, swap)


def _picture_turned(written: Written) -> None:
    written.change_attribute("pixels/Transpose", "perm", [0, 3, 2, 1])


def _refold(written: Written, *, mean: list[float], std: list[float]) -> None:
    """Replaces the folded tensors by those of another normalisation."""
    told = default(_IMAGE)
    told.mean[:], told.std[:] = mean, std
    own: list[NDArray[np.float32]] = []
    for name in (_WEIGHT, _BIAS):
        Written(written.folder, FLOAT).change_weight(name, lambda weight: own.append(np.array(weight)))
    weight, bias = folded_weights(own[0], own[1], told)
    written.change_weight(_WEIGHT + _FOLDED, lambda held: np.copyto(held, weight))
    written.change_weight(_BIAS + _FOLDED, lambda held: np.copyto(held, bias))


def _values_turned(written: Written) -> None:
    written.change_attribute("Transpose", "perm", [0, 2, 4, 1, 5, 3])


def _channels_last(written: Written) -> None:
    written.change_attribute("Transpose", "perm", [0, 2, 4, 3, 5, 1])


def _hand_cut_grid_turned(written: Written) -> None:
    written.change_attribute("Transpose", "perm", [0, 4, 2, 1, 3, 5])


FAULTS = (
    Fault(
        "nan_weight",
        _CONV,
        "NaN in a weight",
        (FLOAT,),
        lambda it: it.change_weight(_WEIGHT, nan),
    ),
    Fault(
        "batch_in_the_signature",
        _CONV,
        "batch frozen in the signature",
        (FLOAT,),
        _batch_in_the_signature,
    ),
    Fault("batch_in_a_reshape", _CONV, "batch frozen in a reshape only", (FLOAT,), _batch_in_a_reshape),
    Fault(
        "batch_of_three",
        _CONV,
        "the same at 3: the traced batch of 2 does not run",
        (FLOAT,),
        _batch_of_three,
    ),
    Fault(
        "batch_between_reshapes",
        _CONV,
        "batch frozen in a reshape that the next one undoes",
        (FLOAT,),
        _batch_between_reshapes,
    ),
    Fault("grid_turned", _CONV, "rows and columns of the patch grid swapped", (FLOAT,), _grid_turned),
    Fault("picture_turned", _CONV, "rows and columns of the picture swapped", (UINT8,), _picture_turned),
    Fault(
        "wrong_mean_and_std",
        _CONV,
        "mean and std of ImageNet folded for 0.5",
        (UINT8,),
        _wrong_mean_and_std,
    ),
    Fault("wrong_mean", _CONV, "mean of one channel 0.4999 for 0.5", (UINT8,), _wrong_mean),
    Fault("around_127", _CONV, "127 subtracted for 128", (UINT8,), _around_127),
    Fault("bgr", _CONV, "BGR for RGB", (UINT8,), _bgr),
    Fault("tensor", _CONV, "one tensor x 1.001", (FLOAT,), lambda it: it.change_weight(_WEIGHT, scaled)),
    Fault(
        "tensor_folded",
        _CONV,
        "one folded tensor x 1.001",
        (UINT8,),
        lambda it: it.change_weight(_WEIGHT + _FOLDED, scaled),
    ),
    Fault(
        "scalar", _CONV, "one scalar x 1.001", (FLOAT,), lambda it: it.change_weight(_WEIGHT, scalar_scaled)
    ),
    Fault(
        "scalar_folded",
        _CONV,
        "one folded scalar x 1.001",
        (UINT8,),
        lambda it: it.change_weight(_WEIGHT + _FOLDED, scalar_scaled),
    ),
    Fault(
        "last_bit",
        _CONV,
        "last bit of one scalar",
        (FLOAT,),
        lambda it: it.change_weight(_WEIGHT, last_bit),
    ),
    Fault(
        "last_bit_folded",
        _CONV,
        "last bit of one folded scalar",
        (UINT8,),
        lambda it: it.change_weight(_WEIGHT + _FOLDED, last_bit),
    ),
    Fault("channels_last", _HAND, "values of a patch pixel by pixel", BOTH, _channels_last),
    Fault("values_turned", _HAND, "rows and columns inside each patch swapped", BOTH, _values_turned),
    Fault(
        "values_turned_uint8",
        _HAND,
        "the same in the uint8 graph only",
        (UINT8,),
        _values_turned,
    ),
    Fault(
        "hand_cut_grid_turned",
        _HAND,
        "rows and columns of the patch grid swapped",
        BOTH,
        _hand_cut_grid_turned,
    ),
)
"""A convolution's and, behind it, those of the patches cut by hand."""
