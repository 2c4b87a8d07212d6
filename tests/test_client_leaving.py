"""`embed_iter` whose consumer leaves early, or whose source is live: what is left behind, and what is not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import Any

import grpc
import numpy as np
import pytest
from client_wire import Wire, expected, serve

from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import AsyncClient, Client, Embedding


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve(Wire()) as running:
        yield running


async def _awaited(images: Any) -> AsyncIterator[Any]:
    for image in images:
        await asyncio.sleep(0)
        yield image


class _Held:
    """Requests that stay until their caller leaves; the first is answered when three others are there."""

    def __init__(self, wire: Wire) -> None:
        self.began, self.left = threading.Semaphore(0), threading.Semaphore(0)
        self.others = threading.Barrier(4, timeout=10)
        wire.on_embed = self.hold  # type: ignore[assignment]

    def hold(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> None:
        gone = threading.Event()
        context.add_callback(gone.set)
        if int(request.items[0].encoded) < 4:
            self.others.wait()
        if request.items[0].encoded == b"0":
            return
        self.began.release()
        if gone.wait(10):
            self.left.release()


def _counted() -> Iterator[bytes]:
    yield from (str(number).encode() for number in range(1000))


def test_closing_early_ends_the_calls_and_leaves_no_thread(wire: Wire) -> None:
    held = _Held(wire)
    with Client(wire.address) as client:
        client.health()
        before = set(threading.enumerate())
        with closing(client.embed_iter(_counted(), batch=1, in_flight=4)) as results:
            assert isinstance(next(results), Embedding)
            assert all(held.began.acquire(timeout=5) for _ in range(3))
        assert all(held.left.acquire(timeout=5) for _ in range(3))
        deadline = time.monotonic() + 5
        while (more := _ours(before)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not more


def _ours(before: set[threading.Thread]) -> set[threading.Thread]:
    """Threads that were begun, but for those of the server in this process."""
    return {t for t in set(threading.enumerate()) - before if not t.name.startswith("ThreadPoolExecutor")}


async def test_a_cancelled_consumer_leaves_no_call_and_no_task(wire: Wire) -> None:
    async with AsyncClient(wire.address) as client:
        for images in (_counted, lambda: _awaited(_counted())):
            held = _Held(wire)
            given: list[Any] = []

            async def consume(images: Any = images, given: list[Any] = given) -> None:
                async for result in client.embed_iter(images(), batch=1, in_flight=4):
                    given += [result]

            before = asyncio.all_tasks()
            task = asyncio.create_task(consume())
            assert all([await asyncio.to_thread(held.began.acquire, timeout=5) for _ in range(4)])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(given) == 1
            assert all([await asyncio.to_thread(held.left.acquire, timeout=5) for _ in range(4)])
            assert asyncio.all_tasks() == before


async def test_leaving_an_asyncio_stream_early_leaves_no_call_and_no_task(wire: Wire) -> None:
    held = _Held(wire)
    async with AsyncClient(wire.address) as client:
        before = asyncio.all_tasks()
        async with aclosing(client.embed_iter(_awaited(_counted()), batch=1, in_flight=4)) as results:
            assert isinstance(await anext(results), Embedding)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(results), 0.3)
        assert asyncio.all_tasks() == before
        assert held.began.acquire(timeout=5)
        assert held.left.acquire(timeout=5)


async def test_a_live_source_is_answered_image_by_image(wire: Wire) -> None:
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    async def live() -> AsyncIterator[bytes]:
        async with asyncio.timeout(10):  # needs one task from beginning to end
            while (image := await asked.get()) != b"end":
                yield image

    async with AsyncClient(wire.address) as client:
        await asked.put(b"first")
        results = client.embed_iter(live(), batch=1)
        for image in (b"first", b"second", b"third"):
            result = await asyncio.wait_for(anext(results), 5)
            assert isinstance(result, Embedding)
            np.testing.assert_array_equal(result.patches, expected(image))
            await asked.put({b"first": b"second", b"second": b"third"}.get(image, b"end"))
        assert [result async for result in results] == []
