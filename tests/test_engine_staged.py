"""A model over a stage: its proof is replayed through every bucket, before anybody is served from one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vitral_engine
from vitral.errors import InvalidArgumentError, ProofError
from vitral_engine.memory import HostMemory
from vitral_engine.staging import Staging


@pytest.fixture
def opened(small_repo: Path) -> Iterator[vitral_engine.Model]:
    model = vitral_engine.open(small_repo / "tiny", device="cpu", staging=Staging("on", max_batch=8))
    yield model
    model.close()


def test_a_model_replays_its_proof_through_every_bucket(opened: vitral_engine.Model) -> None:
    for session in opened.sessions.values():
        assert all(lane.address(size) for lane in session.stage.lanes for size in session.buckets)
    assert 0 < opened.replayed.rel_l2 <= opened.replayed.rel_l2_budget


def test_a_run_that_repeats_its_first_result_fails_the_replay(
    small_repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a captured graph does when its inputs are bound anew: it reads where it read before."""
    uploads: dict[int, int] = {}

    def first_only(self: HostMemory, address: int, array: np.ndarray) -> None:
        if uploads.setdefault(address, 0) == 0:
            real(self, address, array)
        uploads[address] += 1

    real = HostMemory.upload
    monkeypatch.setattr(HostMemory, "upload", first_only)
    with pytest.raises(ProofError, match="does not agree with its proof"):
        vitral_engine.open(small_repo / "tiny", device="cpu", staging=Staging("on", max_batch=8))


def test_cuda_graphs_on_a_cpu_are_refused_with_one_line(small_repo: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="CUDA graphs need device cuda; this is cpu"):
        vitral_engine.open(small_repo / "tiny", device="cpu", staging=Staging(cuda_graphs=True))
