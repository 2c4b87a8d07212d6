"""Sessions and their buffers: reuse, ownership, and batches that agree with single rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vitral_engine.artifact import open_artifact
from vitral_engine.device import place
from vitral_engine.measure import Errors, budget, errors
from vitral_engine.runtime import _cgroup_quota, cpu_count
from vitral_engine.session import GraphSession, SessionOptions


@pytest.fixture
def session(small_repo: Path) -> GraphSession:
    found = open_artifact(small_repo / "tiny")
    graph = next(graph for graph in found.spec.graphs if graph.file == "model_uint8.onnx")
    return GraphSession(found.folder / graph.file, graph, found.spec, placement=place("cpu"))


def _rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 16])
def test_a_batch_equals_its_rows(session: GraphSession, count: int) -> None:
    rows = _rows(count)
    together = session.run(rows)["patch_embeddings"]
    apart = np.concatenate([session.run(row[None])["patch_embeddings"] for row in rows])
    assert np.abs(together - apart).max() <= 1e-6
    assert together.shape == (count, 16, 16)


def test_buffers_are_reused_after_a_clean_run(session: GraphSession) -> None:
    with session.lease(4) as first:
        session.run_bound(first, 3)
    with session.lease(4) as second:
        assert second is first


def test_buffers_of_a_run_that_did_not_return_are_abandoned(session: GraphSession) -> None:
    with pytest.raises(RuntimeError), session.lease(4) as first:
        raise RuntimeError("the run did not return")
    with session.lease(4) as second:
        assert second is not first


def test_two_runs_at_once_never_share_buffers(session: GraphSession) -> None:
    with session.lease(4) as first, session.lease(4) as second:
        assert first is not second
        assert not np.shares_memory(first.outputs["patch_embeddings"], second.outputs["patch_embeddings"])


def test_a_larger_lease_gets_larger_buffers(session: GraphSession) -> None:
    with session.lease(2) as small:
        assert small.input.shape[0] == 2
    with session.lease(9) as large:
        assert large.input.shape[0] == 9


def test_fresh_results_do_not_change(session: GraphSession) -> None:
    first = session.run(_rows(2))["patch_embeddings"]
    kept = first.copy()
    session.run(_rows(3))
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("level", ["disabled", "basic", "extended", "all"])
def test_levels_agree(small_repo: Path, level: str) -> None:
    found = open_artifact(small_repo / "tiny")
    for graph in found.spec.graphs:
        options = SessionOptions(threads=1, level=level, share_weights=True)
        file = found.folder / graph.file
        session = GraphSession(file, graph, found.spec, placement=place("cpu"), options=options)
        shape = (2, *(axis.size for axis in graph.input.axes[1:]))
        assert np.isfinite(
            session.run(np.zeros(shape, session.allocate(1).input.dtype))["patch_embeddings"]
        ).all()


def test_errors_are_of_the_worst_row() -> None:
    truth = np.ones((3, 4, 5))
    got = truth.astype(np.float32)
    got[1, 2, 3] += 0.5
    found = errors(got, truth)
    assert found.max_abs == 0.5
    assert found.where == (1, 2, 3)
    assert found.rel_l2 == pytest.approx(0.5 / np.sqrt(20))
    assert found.cosine_gap > 0.01


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_over_every_budget(bad: float) -> None:
    got = np.ones((1, 2), np.float32)
    got[0, 1] = bad
    found = errors(got, np.ones((1, 2)))
    assert found.rel_l2 == np.inf
    assert found.max_abs == np.inf
    assert not budget(Errors(1e-7, 1e-6, (0,), 0.0, 0.0, 1.0)).holds(found)


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(ValueError, match="has shape"):
        errors(np.ones((1, 2)), np.ones((3, 2)))


def test_budget_is_three_times_torch_and_a_floor() -> None:
    allowed = budget(Errors(1e-7, 1e-6, (0,), 0.0, 0.0, 2.0))
    assert allowed.rel_l2 == 3e-7 + 2.0**-22
    assert allowed.max_abs == 3e-6 + 64 * 2.0**-24 * 2.0


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 2), ("50000 100000", 1)])
def test_cpu_quota_is_read_from_the_cgroup(tmp_path: Path, text: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert _cgroup_quota(tmp_path) == cores
    assert cpu_count() >= 1
