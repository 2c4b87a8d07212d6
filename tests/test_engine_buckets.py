"""Batch sizes that a device is prepared for, and what an operator may ask of it."""

from __future__ import annotations

import pytest

from vitral.errors import InvalidArgumentError
from vitral_engine.buckets import Buckets, powers
from vitral_engine.placement import CPU, CUDA, TENSORRT, Placement, cuda_options
from vitral_engine.staging import Staging

ON_CUDA = Placement(CUDA, "cuda:0", cuda_options(0))


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (32, (1, 2, 4, 8, 16, 32)), (20, (1, 2, 4, 8, 16, 20))],
)
def test_buckets_are_powers_of_two_and_the_largest_batch(largest: int, sizes: tuple[int, ...]) -> None:
    assert powers(largest).sizes == sizes


@pytest.mark.parametrize(
    ("count", "rows"), [(1, 1), (2, 2), (3, 4), (5, 8), (16, 16), (17, 20), (20, 20), (21, 32), (33, 64)]
)
def test_a_batch_runs_at_the_next_bucket(count: int, rows: int) -> None:
    assert powers(20).of(count) == rows


def test_without_buckets_every_batch_runs_at_its_own_size() -> None:
    assert [Buckets().of(count) for count in (1, 5, 33)] == [1, 5, 33]


@pytest.mark.parametrize("sizes", [(0, 1), (1, 1), (4, 2), (-1,)])
def test_buckets_that_do_not_rise_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="they must rise from at least 1"):
        Buckets(sizes)


def test_batches_are_staged_everywhere_but_on_the_cpu() -> None:
    on_cpu, on_tensorrt = Placement(CPU, "cpu"), Placement(TENSORRT, "tensorrt:0")
    assert [Staging().applies(at) for at in (on_cpu, ON_CUDA, on_tensorrt)] == [False, True, True]
    assert Staging(buckets="on").applies(on_cpu)
    assert Staging(buckets="off").applies(ON_CUDA)  # still through device memory, but at exact sizes
    assert Staging(buckets="off").sizes == Buckets()
    assert Staging(max_batch=6).sizes.sizes == (1, 2, 4, 6)


def test_cuda_graphs_are_refused_off_cuda() -> None:
    Staging(cuda_graphs=True).demand(ON_CUDA)
    for place in (Placement(CPU, "cpu"), Placement(TENSORRT, "tensorrt:0")):
        with pytest.raises(
            InvalidArgumentError, match=f"CUDA graphs need device cuda; this is {place.device}"
        ):
            Staging(cuda_graphs=True).demand(place)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buckets": "some"}, "buckets is 'some'; known are auto, on, off"),
        ({"instances": 0}, "instances is 0 and max_batch 32; each must be at least 1"),
        ({"max_batch": 0}, "instances is 1 and max_batch 0"),
        ({"cuda_graphs": True, "buckets": "off"}, "CUDA graphs need batch buckets"),
    ],
)
def test_staging_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Staging(**options)  # type: ignore[arg-type]
