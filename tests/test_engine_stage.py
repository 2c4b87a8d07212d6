"""Buckets, padding, lanes and owners, by the code that a GPU uses, with the CPU as its device."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from vitral_engine.artifact import open_artifact
from vitral_engine.buckets import powers
from vitral_engine.device import place
from vitral_engine.lane import Lane
from vitral_engine.memory import HostMemory
from vitral_engine.session import GraphSession, SessionOptions
from vitral_engine.stage import Stage
from vitral_engine.staging import Staging

OUTPUT = "patch_embeddings"


def _open(repo: Path, staging: Staging | None = None, *, threads: int = 1) -> GraphSession:
    found = open_artifact(repo / "tiny")
    graph = next(graph for graph in found.spec.graphs if graph.input.folded)
    options = SessionOptions(threads=threads, staging=staging or Staging())
    file = found.folder / graph.file
    return GraphSession(file, graph, found.spec, placement=place("cpu"), options=options)


@pytest.fixture(scope="module")
def plain(small_repo: Path) -> GraphSession:
    """The graph as the CPU runs it by default: in place, at exact sizes."""
    return _open(small_repo)


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "by hand"])
def staged(small_repo: Path, request: pytest.FixtureRequest) -> GraphSession:
    """The same over buckets and three lanes; once more with lanes that have threads, as for CUDA graphs."""
    session = _open(small_repo, Staging("on", instances=3, max_batch=20))
    if request.param:
        memories = [HostMemory() for _ in range(3)]
        _replace(session, memories, largest=20)
        session.warm(20)
    return session


@pytest.fixture
def fresh(small_repo: Path) -> GraphSession:
    """One lane, which a test may break."""
    return _open(small_repo, Staging("on", max_batch=8))


def _rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def _replace(session: GraphSession, memories: Sequence[HostMemory], *, largest: int = 8) -> Lane:
    """Gives the session lanes that capture graphs, as far as a CPU does, and returns the first one."""
    assert session.stage is not None
    signature, sessions = session.stage._signature, [session._session] * len(memories)
    session.stage = Stage(sessions, memories, signature, buckets=powers(largest), graphs=True)
    return _lane(session)


def _lane(session: GraphSession) -> Lane:
    assert session.stage is not None
    return session.stage.lanes[0]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 16, 17, 20, 21, 40])
def test_padded_batches_equal_plain_ones_bit_for_bit(
    plain: GraphSession, staged: GraphSession, count: int
) -> None:
    rows = _rows(count, count)
    got = staged.run(rows)[OUTPUT]
    assert got.shape == (count, 16, 16)
    assert np.array_equal(got, plain.run(rows)[OUTPUT])


def test_only_the_rows_of_a_batch_are_delivered(plain: GraphSession, fresh: GraphSession) -> None:
    rows = _rows(5, 1)
    with fresh.lease(5) as buffers:
        assert len(buffers.input) == 8
        buffers.input[:] = 255
        buffers.input[:5] = rows
        buffers.outputs[OUTPUT][:] = np.nan
        fresh.run_bound(buffers, 5)
        assert np.array_equal(buffers.outputs[OUTPUT][:5], plain.run(rows)[OUTPUT])
        assert np.isnan(buffers.outputs[OUTPUT][5:]).all()
        assert not buffers.input[5:].any()  # padded with zeros, whatever was there


def test_no_caller_ever_gets_the_result_of_another(plain: GraphSession, staged: GraphSession) -> None:
    """Thousands of runs of distinct inputs, from more threads than there are lanes."""
    inputs = _rows(400, 7)
    truth = np.concatenate([plain.run(inputs[i : i + 40])[OUTPUT] for i in range(0, 400, 40)])
    assert len(np.unique(truth.reshape(400, -1), axis=0)) == 400

    def caller(seed: int) -> int:
        random, wrong = np.random.default_rng(seed), 0
        for _ in range(400):
            pick = random.integers(0, 400, random.integers(1, 21))
            with staged.lease(len(pick)) as buffers:
                buffers.input[: len(pick)] = inputs[pick]
                staged.run_bound(buffers, len(pick))
                wrong += not np.array_equal(buffers.outputs[OUTPUT][: len(pick)], truth[pick])
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(caller, range(8))) == [0] * 8


def test_replies_held_while_others_run_do_not_change(plain: GraphSession, staged: GraphSession) -> None:
    rows = _rows(6, 3)
    with staged.lease(6) as held:
        held.input[:6] = rows
        staged.run_bound(held, 6)
        for seed in range(30):
            staged.run(_rows(6, 100 + seed))
        assert np.array_equal(held.outputs[OUTPUT][:6], plain.run(rows)[OUTPUT])


def test_a_size_is_bound_once_and_keeps_its_address(fresh: GraphSession) -> None:
    fresh.warm(8)
    addresses = [_lane(fresh).address(size) for size in fresh.buckets]
    assert len(set(addresses)) == 1  # one block, large enough for all of them
    assert addresses[0] > 0
    for count in (1, 5, 8, 2, 3):
        fresh.run(_rows(count, count))
    assert [_lane(fresh).address(size) for size in fresh.buckets] == addresses


def test_a_batch_beyond_the_largest_bucket_leaves_the_others_where_they_are(
    plain: GraphSession, fresh: GraphSession
) -> None:
    fresh.warm(8)
    before = _lane(fresh).address(8)
    assert np.array_equal(fresh.run(_rows(20, 5))[OUTPUT], plain.run(_rows(20, 5))[OUTPUT])
    assert _lane(fresh).address(8) == before
    assert _lane(fresh).address(32) not in (0, before)


class Breaking(HostMemory):
    """Fails on demand, as a device that is out of memory or gone."""

    fault: str = ""

    def upload(self, address: int, array: np.ndarray) -> None:
        if self.fault == "upload":
            raise RuntimeError("the upload failed")
        super().upload(address, array)

    def download(self, array: np.ndarray, address: int) -> None:
        if self.fault == "download":
            raise RuntimeError("the download failed")
        super().download(array, address)


@pytest.mark.parametrize("fault", ["upload", "download"])
def test_nothing_of_a_run_that_failed_is_used_again(
    plain: GraphSession, fresh: GraphSession, fault: str
) -> None:
    fresh.warm(8)
    memory = Breaking()
    lane = _lane(fresh)
    lane._memory = memory
    before, host = (
        lane.address(8),
        lane._bound[8, 32, 32, 3].blocks,
    )  # kept alive, so that an address cannot come back
    memory.fault = fault
    with pytest.raises(RuntimeError, match=f"the {fault} failed"), fresh.lease(5) as broken:
        fresh.run_bound(broken, 5)
    memory.fault = ""
    with fresh.lease(5) as next_one:
        assert next_one is not broken
        next_one.input[:5] = _rows(5, 9)
        fresh.run_bound(next_one, 5)
        assert np.array_equal(next_one.outputs[OUTPUT][:5], plain.run(_rows(5, 9))[OUTPUT])
    assert lane.address(8) not in (0, before)
    assert host[0].address == before


def test_a_run_that_does_not_return_keeps_its_lane_and_its_buffers(
    plain: GraphSession, small_repo: Path
) -> None:
    session = _open(small_repo, Staging("on", instances=2, max_batch=8))
    assert session.stage is not None
    stuck, began, gate = session.stage.lanes[0], threading.Event(), threading.Event()

    class Stuck(HostMemory):
        def upload(self, address: int, array: np.ndarray) -> None:
            began.set()
            gate.wait(10)
            super().upload(address, array)

    stuck._memory = Stuck()
    held: list[object] = []

    def run() -> None:
        with session.lease(5) as buffers:
            held.append(buffers)
            session.run_bound(buffers, 5)

    thread = threading.Thread(target=run)
    thread.start()
    assert began.wait(10)
    for seed in range(20):  # all of them on the other lane
        with session.lease(5) as buffers:
            assert buffers is not held[0]
            buffers.input[:5] = _rows(5, seed)
            session.run_bound(buffers, 5)
            assert np.array_equal(buffers.outputs[OUTPUT][:5], plain.run(_rows(5, seed))[OUTPUT])
    assert session.stage.lanes[1].address(8) > 0
    assert stuck.address(8) > 0
    gate.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("count", [0, 9])
def test_more_rows_than_the_buffers_hold_are_refused(fresh: GraphSession, count: int) -> None:
    with fresh.lease(8) as buffers, pytest.raises(ValueError, match=r"rows run as \d+; the buffers hold 8"):
        fresh.run_bound(buffers, count)


def test_without_buckets_a_staged_batch_runs_at_its_own_size(plain: GraphSession, small_repo: Path) -> None:
    session = _open(small_repo)
    assert session.stage is None
    assert session.buckets == ()
    session.warm(8)
    assert np.array_equal(session.run(_rows(5, 2))[OUTPUT], plain.run(_rows(5, 2))[OUTPUT])


def test_graphs_are_captured_for_warmed_sizes_and_run_in_one_thread(
    plain: GraphSession, fresh: GraphSession
) -> None:
    """Which run option and which thread, that is; what a CPU does with the option is nothing."""
    threads: set[int] = set()

    class Noting(HostMemory):
        def upload(self, address: int, array: np.ndarray) -> None:
            threads.add(threading.get_ident())
            super().upload(address, array)

    lane = _replace(fresh, [Noting()])
    assert fresh.stage is not None
    fresh.stage.warm([1, 2, 3])
    assert lane.captured == (1, 2, 4)
    numbers = [one.get_run_config_entry("gpu_graph_id") for one in lane._captured.values()]
    assert len({*numbers, "0", "-1"}) == 5  # one for each size, never the default
    assert lane._plain is not None
    assert lane._plain.get_run_config_entry("gpu_graph_id") == "-1"  # what was not warmed captures nothing
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda seed: fresh.run(_rows(5, seed))[OUTPUT], range(20)))
    assert all(np.array_equal(one, plain.run(_rows(5, seed))[OUTPUT]) for seed, one in enumerate(got))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_the_largest_size_is_made_ready_first_and_then_the_smallest(fresh: GraphSession) -> None:
    sizes: list[int] = []

    class Noting(HostMemory):
        def upload(self, address: int, array: np.ndarray) -> None:
            sizes.append(len(array))
            super().upload(address, array)

    _replace(fresh, [Noting()])
    fresh.warm(8)
    assert sizes == [8, 1, 2, 4]


def test_a_failed_run_drops_its_graphs(fresh: GraphSession, caplog: pytest.LogCaptureFixture) -> None:
    memory = Breaking()
    lane = _replace(fresh, [memory])
    fresh.warm(8)
    assert lane.captured == (1, 2, 4, 8)
    memory.fault = "upload"
    with pytest.raises(RuntimeError, match="the upload failed"):
        fresh.run(_rows(3, 0))
    assert lane.captured == ()
    assert "its captured CUDA graphs are dropped" in caplog.text
