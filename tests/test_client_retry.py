"""Calls that are made again: refused ones of any size, and those whose connection broke, on real servers."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from relay import cutting
from serving import Running, running

import vitral_client
from vitral_client import AsyncClient, Client, aio_driver, channel, driver

LARGE = np.zeros((1000, 3500, 3), np.uint8)
"""10.5 MB as pixels."""

SMALL = np.zeros((32, 32, 3), np.uint8)
BUFFER = "grpc.per_rpc_retry_buffer_size"


@pytest.fixture
def free(small_repo: Path, tmp_path: Path) -> Iterator[Running]:
    with running(small_repo, log=tmp_path / "free.log") as started:
        yield started


@contextmanager
def _full(repo: Path, log: Path) -> Iterator[Running]:
    """A server that has room for one image, and holds it until the end."""
    room = ("--max-queue-images", "1", "--queue-delay-ms", "60000", "--grace", "0")
    with running(repo, *room, log=log) as full:
        leaving = threading.Event()
        with Client(full.address) as holder, Client(full.address) as probe:
            threading.Thread(target=_hold, args=(holder, leaving), daemon=True).start()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    probe.embed(SMALL, timeout=0.5)
                except vitral_client.QueueFullError:
                    break
                except vitral_client.DeadlineError:
                    continue  # it came before the one that is to stay
            yield full
            leaving.set()


def _hold(client: Client, leaving: threading.Event) -> None:
    while not leaving.is_set():
        with suppress(vitral_client.VitralError):
            client.embed(SMALL, timeout=60)


def _codes(server: Running) -> list[str]:
    """How its calls ended."""
    return [line["code"] for line in server.lines("embed")]


def _unbuffered(address: str, road: channel.Road) -> list[tuple[str, Any]]:
    return [pair for pair in channel.options(address, road) if pair[0] != BUFFER]


def _connect(client: Client, server: Running) -> None:
    """Calls until this one of the client's servers has answered."""
    before = len(_codes(server))
    while len(_codes(server)) == before:
        with suppress(vitral_client.QueueFullError):  # all four attempts went to the other one
            client.embed(SMALL)


async def test_a_refused_request_of_10_mb_is_made_again_elsewhere(
    small_repo: Path, free: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _full(small_repo, tmp_path / "full.log") as full:
        address = f"{full.address},{free.address}"
        with Client(address, timeout=60) as client:
            _connect(client, free)
            before = len(_codes(full)), len(_codes(free))
            results = [client.embed(LARGE) for _ in range(6)]
        assert _codes(free)[before[1] :] == ["OK"] * 6
        async with AsyncClient(address, timeout=60) as awaiting:
            while not await _answers(awaiting):
                pass
            results += [await awaiting.embed(LARGE) for _ in range(6)]
        assert all(result.patches.shape == (16, 16) for result in results)
        refused = _codes(full)[before[0] :]
        assert len(refused) >= 4, "no call was refused"
        assert set(refused) == {"RESOURCE_EXHAUSTED"}
        # The same without room to keep such a request: gRPC does not make it again, and says nothing of it.
        monkeypatch.setattr(driver, "options", _unbuffered)
        monkeypatch.setattr(aio_driver, "options", _unbuffered)
        with Client(address, timeout=60) as client:
            _connect(client, free)
            assert _ends(lambda: client.embed(SMALL)) == {"OK"}
            assert _ends(lambda: client.embed(LARGE)) == {"OK", "QueueFullError"}


async def _answers(client: AsyncClient) -> bool:
    try:
        await client.embed(SMALL)
    except vitral_client.QueueFullError:
        return False
    return True


def _ends(call: Callable[[], Any]) -> set[str]:
    ends = set()
    for _ in range(6):
        try:
            call()
            ends.add("OK")
        except vitral_client.VitralError as error:
            ends.add(type(error).__name__)
    return ends


def test_a_server_that_dies_with_a_10_mb_request_half_sent_is_stood_in_for(
    small_repo: Path, free: Running, tmp_path: Path
) -> None:
    with (
        running(small_repo, log=tmp_path / "dying.log") as dying,
        Client(f"{dying.address},{free.address}", timeout=60) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        while not (_codes(dying) and _codes(free)):
            client.embed(SMALL)
        dying.process.send_signal(signal.SIGSTOP)  # takes what the kernel takes, and no more
        calls = [pool.submit(client.embed, LARGE) for _ in range(4)]
        time.sleep(1)
        stuck = sum(not call.done() for call in calls)
        dying.process.kill()
        assert [call.result(60).patches.shape for call in calls] == [(16, 16)] * 4
        assert stuck, "no call went to the server that died"


def test_several_addresses_share_the_calls(small_repo: Path, free: Running, tmp_path: Path) -> None:
    with (
        running(small_repo, log=tmp_path / "other.log") as other,
        Client(f"{other.address},{free.address}") as client,
    ):
        while not (_codes(other) and _codes(free)):  # until both are connected
            client.embed(SMALL)
        before = len(_codes(other)), len(_codes(free))
        for _ in range(20):
            client.embed(SMALL)
        assert (len(_codes(other)) - before[0], len(_codes(free)) - before[1]) == (10, 10)
        list(client.embed_iter([SMALL] * 40, batch=2, in_flight=4))
        assert len(_codes(other)) - before[0] == len(_codes(free)) - before[1] == 20


async def test_a_reply_that_breaks_off_is_asked_for_again(base_repo: Path, tmp_path: Path) -> None:
    images = [SMALL] * 8  # 4.8 MB of reply
    with running(base_repo, log=tmp_path / "log") as server:
        with cutting(server.address, after=1 << 20) as relay, Client(relay.address, timeout=30) as client:
            results = client.embed(images)
            assert (relay.cuts, relay.connections) == (1, 2)
        with cutting(server.address, after=1 << 20) as relay:
            async with AsyncClient(relay.address, timeout=30) as awaiting:
                results += [one async for one in awaiting.embed_iter(images, batch=8)]
            assert relay.cuts == 1
        assert [line["images"] for line in server.lines("embed")] == [8, 8, 8, 8]
    assert len(results) == 16
    for result in results:
        np.testing.assert_array_equal(result.patches, results[0].patches)
