"""Unit length, bfloat16 and int8 at the edges of float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitral.selection import Selection
from vitral.v1 import tensor_pb2
from vitral_engine import elements

MOST, LEAST = np.float32(3.4028235e38), np.float32(1e-45)
EDGES = np.array(
    [
        0.0,
        -0.0,
        1.0,
        -1.5,
        np.inf,
        -np.inf,
        MOST,
        -MOST,
        LEAST,
        -LEAST,
        1e-39,
        np.pi,
        1 + 2**-8,
        1 + 3 * 2**-8,
    ],
    np.float32,
)


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    noise = np.random.default_rng(0).integers(0, 2**32, 20000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([EDGES, noise])
    got = elements.bfloat16(values)
    truth = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    finite = ~np.isnan(values)
    np.testing.assert_array_equal(got[finite], truth[finite])
    widened = (got.astype(np.uint32) << 16).view(np.float32)
    assert np.isnan(widened[~finite]).all()
    assert (~finite).sum() > 50
    nans = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)  # rounded, they were infinite, or 0
    assert np.isnan((elements.bfloat16(nans).astype(np.uint32) << 16).view(np.float32)).all()


def test_int8_is_off_by_half_a_scale_at_most() -> None:
    rows = np.random.default_rng(1).normal(size=(7, 33)).astype(np.float32)
    rows[0], rows[1] = 0, rows[1] * 1e-42  # zeros, and subnormal ones
    rows[2, 5], rows[3, 6], rows[4] = np.nan, np.inf, rows[4] * 1e38 / 4
    values, scales = elements.int8(rows)
    assert (values.dtype, scales.dtype) == (np.int8, np.float32)
    again = values.astype(np.float32) * scales[:, None]
    assert np.array_equal(again[0], rows[0])
    assert scales[0] == 0
    assert np.isnan(scales[[2, 3]]).all()
    assert not values[[2, 3]].any()
    for row in (4, 5, 6):
        assert np.abs(again[row] - rows[row]).max() <= 0.5001 * scales[row]
        assert scales[row] == np.abs(rows[row]).max() / np.float32(127)
    assert np.abs(again[1] - rows[1]).max() <= 64 * LEAST  # a scale cannot be finer than the least float


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1.0, 1e30, 1e38])
def test_unit_length_at_any_size(size: float) -> None:
    rows = (np.random.default_rng(2).normal(size=(5, 40)) * size).astype(np.float32)
    rows[2] = 0
    got = elements.unit(rows)
    assert got.dtype == np.float32
    lengths = np.linalg.norm(got.astype(np.float64), axis=-1)
    np.testing.assert_allclose(lengths[[0, 1, 3, 4]], 1, rtol=1e-6)
    assert not got[2].any()


def test_rows_are_handed_on_where_nothing_has_to_be_done() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    (same,) = elements.made(rows[1:], Selection())
    assert np.shares_memory(same, rows)
    (apart,) = elements.made(rows[:, ::2], Selection())
    assert apart.flags.c_contiguous
    assert np.array_equal(apart, rows[:, ::2])
    half = rows.astype(np.float16)
    for dtype in (tensor_pb2.DATA_TYPE_BFLOAT16, tensor_pb2.DATA_TYPE_INT8, tensor_pb2.DATA_TYPE_FLOAT32):
        wanted = Selection(dtype=dtype)
        for got, truth in zip(elements.made(half, wanted), elements.made(rows, wanted), strict=True):
            assert got.dtype == truth.dtype
            assert np.array_equal(got, truth)
