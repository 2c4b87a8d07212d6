"""The fast cast to float16 is NumPy's, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vitral_engine import half

RNG = np.random.default_rng(0)


def expected(source: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return source.astype(np.float16)


def same(got: np.ndarray, wanted: np.ndarray) -> bool:
    bits = got.view(np.uint16) == wanted.view(np.uint16)
    return bool((bits | (np.isnan(got) & np.isnan(wanted))).all())


def test_every_float16_and_the_middle_between_two_and_its_neighbours() -> None:
    exact = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = exact[np.isfinite(exact)]
    ordered = np.unique(finite)
    middles = (ordered[1:] + ordered[:-1]) / 2  # exact in float32
    values = np.concatenate(
        [exact, middles, np.nextafter(middles, np.float32(9)), np.nextafter(middles, -np.float32(9))]
    )
    got = np.empty(values.shape, np.float16)
    half.cast(values, got)

    assert same(got, expected(values))


def test_any_bits_of_float32() -> None:
    values = RNG.integers(0, 2**32, 2**20, dtype=np.uint32).view(np.float32)
    got = np.empty(values.shape, np.float16)
    half.cast(values, got)

    assert np.isnan(values).any()
    assert np.isinf(got).any()
    assert same(got, expected(values))


@pytest.mark.parametrize("shape", [(0, 9), (3, 5), (2, 65, 128), (1, 4096)])
def test_shapes_small_and_large(shape: tuple[int, ...]) -> None:
    values = RNG.standard_normal(shape).astype(np.float32)
    got = np.full(shape, 7, np.float16)
    half.cast(values, got)

    np.testing.assert_array_equal(got, values.astype(np.float16))


def test_rows_without_their_first_token_and_every_other_element() -> None:
    values = RNG.standard_normal((3, 65, 128)).astype(np.float32)
    rows, scattered = np.empty((3, 64, 128), np.float16), np.empty((3, 65, 64), np.float16)
    half.cast(values[:, 1:], rows)
    half.cast(values[:, :, ::2], scattered)

    np.testing.assert_array_equal(rows, values[:, 1:].astype(np.float16))
    np.testing.assert_array_equal(scattered, values[:, :, ::2].astype(np.float16))


def test_float32_stays_as_it_is() -> None:
    values = RNG.standard_normal((2, 4096)).astype(np.float32)
    got = np.empty_like(values)
    half.cast(values, got)

    np.testing.assert_array_equal(got, values)


def test_shapes_that_differ_are_refused_and_nothing_is_broadcast() -> None:
    with pytest.raises(ValueError, match=r"source has shape \(1, 4096\), target \(2, 4096\)"):
        half.cast(np.zeros((1, 4096), np.float32), np.empty((2, 4096), np.float16))


def test_several_threads_at_once() -> None:
    values = RNG.standard_normal((16, 8192)).astype(np.float32)
    got = np.empty(values.shape, np.float16)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(half.cast, values, got))

    np.testing.assert_array_equal(got, values.astype(np.float16))


def test_without_a_runtime_it_is_numpys_own() -> None:
    code = """
import sys
sys.modules["onnxruntime"] = None  # what an import then says is ModuleNotFoundError
import numpy as np
from vitral_engine import half
values = np.linspace(-7e4, 7e4, 2**16, dtype=np.float32)
got = np.empty(values.shape, np.float16)
half.cast(values, got)
with np.errstate(over="ignore"):
    assert (got == values.astype(np.float16)).all()
assert half._session() is None
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
