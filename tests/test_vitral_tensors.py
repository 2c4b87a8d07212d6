"""Element types and views of raw bytes."""

from __future__ import annotations

import numpy as np
import pytest

from vitral import tensors
from vitral.errors import InvalidArgumentError
from vitral.v1 import tensor_pb2 as pb

KINDS = {
    pb.DATA_TYPE_FLOAT32: "<f4",
    pb.DATA_TYPE_FLOAT16: "<f2",
    pb.DATA_TYPE_UINT8: "|u1",
    pb.DATA_TYPE_INT8: "|i1",
    pb.DATA_TYPE_UINT16: "<u2",
    pb.DATA_TYPE_INT64: "<i8",
}


@pytest.mark.parametrize(("dtype", "kind"), KINDS.items())
def test_views_share_the_bytes_and_are_read_only(dtype: int, kind: str) -> None:
    truth = np.arange(12).astype(kind).reshape(3, 4)
    data = truth.tobytes()
    for source in (data, memoryview(data)):
        array = tensors.view(source, dtype, [3, 4])
        np.testing.assert_array_equal(array, truth)
        assert array.dtype == np.dtype(kind)
        assert not array.flags.writeable
        assert np.shares_memory(array, np.frombuffer(data, np.uint8))


def test_bfloat16_is_widened_exactly() -> None:
    values = np.array([1.0, -2.5, 3.140625, 0.0, np.inf, -0.0], np.float32)
    upper = (values.view("<u4") >> 16).astype("<u2")
    array = tensors.view(upper.tobytes(), pb.DATA_TYPE_BFLOAT16, [2, 3])
    assert array.dtype == np.float32
    assert array.tobytes() == values.tobytes()


@pytest.mark.parametrize("shape", [[0, 5], [5, 0], []])
def test_empty_tensors_and_scalars(shape: list[int]) -> None:
    array = tensors.view(bytes(4 * int(np.prod(shape))), pb.DATA_TYPE_FLOAT32, shape)
    assert array.shape == tuple(shape)


@pytest.mark.parametrize(
    ("size", "dtype", "shape", "message"),
    [
        (23, pb.DATA_TYPE_FLOAT32, [2, 3], "row 2 x 3 float32 takes 24 bytes, but 23 came"),
        (0, pb.DATA_TYPE_FLOAT16, [1 << 30, 1 << 30], "but 0 came"),
        (0, pb.DATA_TYPE_FLOAT16, [1 << 40, 1 << 40], "extent over 2147483647"),
        (0, pb.DATA_TYPE_UINT8, [1] * 9, "has 9 axes; the limit is 8"),
        (0, pb.DATA_TYPE_UINT8, [0, *[(1 << 31) - 1] * 3], "impossible shape"),
        (6, pb.DATA_TYPE_UINT8, [-2, -3], "negative extent: -2 x -3"),
        (6, pb.DATA_TYPE_UNSPECIFIED, [6], "row has unspecified"),
        (6, 99, [6], "row has unknown dtype 99"),
        (3, pb.DATA_TYPE_FLOAT32, [], "row scalar float32 takes 4 bytes, but 3 came"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_numbers(
    size: int, dtype: int, shape: list[int], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        tensors.view(bytes(size), dtype, shape, what="row")


def test_every_type_of_the_contract_has_a_size_and_a_name() -> None:
    every = {value for value in pb.DataType.values() if value != pb.DATA_TYPE_UNSPECIFIED}
    assert set(tensors.ITEM_BYTES) == every
    for value in every:
        assert tensors.dtype_named(tensors.name_of(value)) == value
        assert tensors.numpy_dtype(value).itemsize == tensors.ITEM_BYTES[value]


@pytest.mark.parametrize("name", ["float64", "unspecified", "", "FLOAT 32"])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="known are float32, float16, bfloat16"):
        tensors.dtype_named(name)
