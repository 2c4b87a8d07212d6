"""Batching over a real session that the tests can hold up: who is run, who is dropped, what breaks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import numpy as np
import pytest

from vitral import framing, sizes
from vitral.errors import DeadlineError, ImageError, QueueFullError, ServerError, UnavailableError
from vitral.selection import Part, Selection
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import model_pb2
from vitral_engine.artifact import open_artifact
from vitral_engine.device import place
from vitral_engine.session import Buffers, GraphSession
from vitral_server.batcher import Batcher, BatchOptions, Ticket
from vitral_server.call import Door, Picture
from vitral_server.feed import Feed
from vitral_server.plan import Plan
from vitral_server.reply import Assembly, Frame

WANTED = (Part("patch_embeddings", Selection(), (16, 16)),)


class Held(GraphSession):
    """Runs only while the gate is open, notes the batch sizes, and fails on demand."""

    def prepare(self) -> None:
        self.gate = threading.Event()
        self.began = threading.Event()
        self.sizes: list[int] = []
        self.fault: Exception | None = None

    def run_bound(self, buffers: Buffers, count: int, *, alone: bool = True) -> None:
        self.began.set()
        assert self.gate.wait(10)
        self.sizes.append(count)
        if self.fault is not None:
            raise self.fault
        super().run_bound(buffers, count, alone=alone)


class Desk:
    """A session, its batchers, and requests to them."""

    def __init__(self, session: Held, spec: model_pb2.ModelSpec) -> None:
        self.session, self.spec = session, spec
        self.batchers: list[Batcher] = []

    def batcher(self, **options: float) -> Batcher:
        made = Batcher(self.session, BatchOptions(**({"max_batch": 4} | options)), name="test")  # type: ignore[arg-type]
        self.batchers.append(made)
        return made

    def request(self, *rows: np.ndarray, seconds: float = 10.0) -> tuple[Assembly, list[Ticket]]:
        assembly = Assembly(self.spec, "1", WANTED, images=len(rows), deadline=monotonic() + seconds)
        return assembly, [Ticket(assembly, i, row, monotonic()) for i, row in enumerate(rows)]

    def truth(self, row: np.ndarray) -> np.ndarray:
        self.session.gate.set()
        return GraphSession.run(self.session, row[None])["patch_embeddings"][0]


@pytest.fixture
def desk(small_repo: Path) -> Iterator[Desk]:
    found = open_artifact(small_repo / "tiny")
    graph = next(graph for graph in found.spec.graphs if graph.input.folded)
    session = Held(found.folder / graph.file, graph, found.spec, placement=place("cpu"))
    session.prepare()
    made = Desk(session, found.spec)
    yield made
    session.gate.set()
    for batcher in made.batchers:
        batcher.close()


def _row(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def _arrays(frame: Frame) -> list[np.ndarray]:
    header, payloads = framing.split(frame.message)
    reply = pb.EmbedResponse.FromString(header)
    tensors = [result.outputs[0] for result in reply.results if result.outputs]
    return [np.frombuffer(payloads[t.payload], np.float32).reshape(t.shape) for t in tensors]


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  (the condition is a thread's)
            await asyncio.sleep(0.005)


async def test_an_idle_session_takes_what_is_there_and_a_busy_one_lets_the_queue_fill(desk: Desk) -> None:
    batcher = desk.batcher()
    requests = [desk.request(_row(i)) for i in range(6)]
    batcher.submit(requests[0][1])
    await _until(desk.session.began.is_set)
    for _, tickets in requests[1:]:
        batcher.submit(tickets)
    desk.session.gate.set()
    frames = await asyncio.gather(*(assembly.future for assembly, _ in requests))
    assert desk.session.sizes == [1, 4, 1]
    for i, frame in enumerate(frames):
        assert np.allclose(_arrays(frame)[0], desk.truth(_row(i)), atol=1e-6)
    assert [frame.timings.batch_size for frame in frames] == [1, 4, 4, 4, 4, 1]


async def test_a_request_over_several_batches_keeps_its_order(desk: Desk) -> None:
    desk.session.gate.set()
    rows = [_row(i) for i in range(11)]
    assembly, tickets = desk.request(*rows)
    desk.batcher().submit(tickets)
    arrays = _arrays(await assembly.future)
    assert len(arrays) == 11
    for row, array in zip(rows, arrays, strict=True):
        assert np.allclose(array, desk.truth(row), atol=1e-6)


async def test_replies_survive_the_next_runs(desk: Desk) -> None:
    desk.session.gate.set()
    batcher = desk.batcher()
    first, tickets = desk.request(_row(0))
    batcher.submit(tickets)
    frame = await first.future
    kept = frame.message
    copy = bytes(bytearray(kept))
    others = [desk.request(*(_row(i + j) for j in range(4))) for i in range(1, 20)]
    for _, more in others:
        batcher.submit(more)
    await asyncio.gather(*(assembly.future for assembly, _ in others))
    assert kept == copy


async def test_cancelled_rows_cost_no_run(desk: Desk) -> None:
    batcher = desk.batcher()
    first, tickets = desk.request(_row(0))
    batcher.submit(tickets)
    await _until(desk.session.began.is_set)
    left, gone = desk.request(_row(1), _row(2))
    stays, kept = desk.request(_row(3))
    batcher.submit(gone)
    batcher.submit(kept)
    left.left = True
    desk.session.gate.set()
    await first.future
    frame = await stays.future
    assert desk.session.sizes == [1, 1]
    assert np.allclose(_arrays(frame)[0], desk.truth(_row(3)), atol=1e-6)
    assert not left.future.done()


async def test_expired_rows_cost_no_run(desk: Desk) -> None:
    batcher = desk.batcher()
    first, tickets = desk.request(_row(0))
    batcher.submit(tickets)
    await _until(desk.session.began.is_set)
    late, expired = desk.request(_row(1), seconds=0.01)
    batcher.submit(expired)
    await asyncio.sleep(0.05)
    desk.session.gate.set()
    await first.future
    with pytest.raises(DeadlineError, match=r"the deadline passed \d+ ms ago, in the queue"):
        await late.future
    assert desk.session.sizes == [1]


async def test_a_model_queue_limit_refuses_at_once(desk: Desk) -> None:
    batcher = desk.batcher(max_queue=2)
    _, tickets = desk.request(_row(0))
    batcher.submit(tickets)
    await _until(desk.session.began.is_set)
    batcher.submit(desk.request(_row(1), _row(2))[1])
    with pytest.raises(QueueFullError, match="2 images wait and 1 more came; the limit of this model is 2"):
        batcher.submit(desk.request(_row(3))[1])


async def test_a_queue_delay_waits_for_the_batch_to_fill(desk: Desk) -> None:
    desk.session.gate.set()
    batcher = desk.batcher(delay=5.0)
    requests = [desk.request(_row(i)) for i in range(4)]
    start = monotonic()
    for _, tickets in requests:
        batcher.submit(tickets)
    await asyncio.gather(*(assembly.future for assembly, _ in requests))
    assert desk.session.sizes == [4]
    assert monotonic() - start < 4


async def test_a_failed_run_fails_its_requests_with_an_id_and_the_next_is_served(desk: Desk) -> None:
    desk.session.gate.set()
    batcher = desk.batcher()
    desk.session.fault = RuntimeError("out of memory")
    assembly, tickets = desk.request(_row(0))
    batcher.submit(tickets)
    with pytest.raises(ServerError, match=r"the run failed; .* under id [0-9a-f]{12}") as caught:
        await assembly.future
    assert "out of memory" not in str(caught.value)
    desk.session.fault = None
    assembly, tickets = desk.request(_row(1))
    batcher.submit(tickets)
    assert np.allclose(_arrays(await assembly.future)[0], desk.truth(_row(1)), atol=1e-6)
    assert batcher.fault() == ""


async def test_three_failed_runs_in_a_row_are_a_dead_engine(desk: Desk) -> None:
    desk.session.gate.set()
    desk.session.fault = RuntimeError("the device is gone")
    batcher = desk.batcher()
    for i in range(3):
        assembly, tickets = desk.request(_row(i))
        batcher.submit(tickets)
        with pytest.raises(ServerError):
            await assembly.future
    await _until(batcher.fault)
    assert "its last 3 runs failed" in batcher.fault()
    with pytest.raises(UnavailableError, match="not running"):
        batcher.submit(desk.request(_row(9))[1])


async def test_a_run_that_does_not_return_is_seen(desk: Desk) -> None:
    batcher = desk.batcher(run_timeout=0.05)
    _, tickets = desk.request(_row(0))
    assert batcher.fault() == ""
    batcher.submit(tickets)
    await _until(batcher.fault)
    assert "has not returned for more than 0.05 s" in batcher.fault()


async def test_a_run_thread_that_ends_is_seen_and_nobody_hangs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    batcher = desk.batcher()
    monkeypatch.setattr(batcher, "_run", lambda batch: (_ for _ in ()).throw(SystemError("thread ends")))
    batcher.submit(desk.request(_row(0))[1])
    await _until(batcher.fault)
    assert "its run thread ended: SystemError" in batcher.fault()
    with pytest.raises(UnavailableError):
        batcher.submit(desk.request(_row(1))[1])


async def test_two_instances_never_mix_their_rows(desk: Desk) -> None:
    desk.session.gate.set()
    batcher = desk.batcher(instances=2)
    requests = [(i, *desk.request(_row(i), _row(i + 100))) for i in range(40)]
    for _, _, tickets in requests:
        batcher.submit(tickets)
    for i, assembly, _ in requests:
        first, second = _arrays(await assembly.future)
        assert np.allclose(first, desk.truth(_row(i)), atol=1e-6)
        assert np.allclose(second, desk.truth(_row(i + 100)), atol=1e-6)


async def test_refused_images_keep_their_place(desk: Desk) -> None:
    desk.session.gate.set()
    assembly = Assembly(desk.spec, "1", WANTED, images=3, deadline=monotonic() + 10)
    assembly.refuse(1, ImageError("bad", cause="format"))
    desk.batcher().submit([Ticket(assembly, i, _row(i), monotonic()) for i in (0, 2)])
    frame = await assembly.future
    reply = pb.EmbedResponse.FromString(framing.split(frame.message)[0])
    assert [result.error.reason for result in reply.results] == ["", "format", ""]
    assert frame.failed == 1
    assert np.allclose(_arrays(frame)[1], desk.truth(_row(2)), atol=1e-6)


async def test_a_picture_past_its_deadline_is_not_even_decoded(desk: Desk) -> None:
    late, _ = desk.request(_row(0), seconds=-1.0)
    feed = Feed(SimpleNamespace(pictures=()), None, late, None)  # type: ignore[arg-type]
    feed._prepare(0, [Picture(Door.ENCODED, b"never read")])
    with pytest.raises(DeadlineError, match="nobody waits for this image"):
        await late.future


async def test_a_bug_behind_the_last_picture_ends_the_request(desk: Desk) -> None:
    waiting, _ = desk.request(_row(0))
    call = SimpleNamespace(pictures=(Picture(Door.ENCODED, ImageError("bad", cause="format")),))
    target, behind = SimpleNamespace(size=None), SimpleNamespace(graph=None)
    plan = Plan(None, None, target, {}, None, {Door.ENCODED: behind}, 0)  # type: ignore[arg-type]
    feed = Feed(call, plan, waiting, SimpleNamespace(alone=True))  # type: ignore[arg-type]
    feed._left = 1
    feed._prepare(0, [call.pictures[0]])
    with pytest.raises(TypeError):
        await asyncio.wait_for(waiting.future, 5)


async def test_messages_of_bad_images_are_cut_in_bytes(desk: Desk) -> None:
    assembly = Assembly(desk.spec, "1", WANTED, images=1, deadline=monotonic() + 10)
    assembly.refuse(0, ImageError("조각" * 500, cause="format"))
    frame = await assembly.future
    assert len(frame.message) < sizes.header_bytes([(WANTED[0].name, WANTED[0].selection)], 1)
    said = pb.EmbedResponse.FromString(frame.message).results[0].error.message
    assert said == "조각" * 66 + "조"
