"""Replies through memory shared with a real server: the same bits, views that stay, and who cleans up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Running, running

from vitral.errors import (
    ImageError,
    InvalidArgumentError,
    RegionError,
    UnavailableError,
)
from vitral.results import Embedding
from vitral_client import AsyncClient, Client, Prepared, shared
from vitral_client.image import load
from vitral_client.request import Request, Wish, frame_shared

MODEL = "vit-embedding"
OWNER = """
import sys, time
import numpy as np
from vitral_client import Client
client = Client(sys.argv[1], transport="shm")
kept = client.embed(np.zeros((32, 32, 3), np.uint8), model=sys.argv[2])
print("embedded", flush=True)
time.sleep(600)
"""
WIRE = 1000
"""Bytes of a message without tensors are fewer."""


def _picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def _last_bytes(server: Running) -> int:
    return int(server.lines("embed")[-1]["bytes_out"])


def _mapped(server: Running) -> int:
    return Path(f"/proc/{server.process.pid}/maps").read_text().count("/memfd:vitral")


def _until(true: Callable[[], bool], seconds: float = 15.0) -> bool:
    ends = time.monotonic() + seconds
    while not true() and time.monotonic() < ends:
        time.sleep(0.05)
    return true()


def _equal(ours: Sequence[Embedding | ImageError], theirs: Sequence[Embedding | ImageError]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, ImageError) or isinstance(other, ImageError):
            assert (type(one), str(one)) == (type(other), str(other))
            continue
        assert list(one.outputs) == list(other.outputs)
        for name, array in one.outputs.items():
            assert array.dtype == other.outputs[name].dtype
            assert array.tobytes() == other.outputs[name].tobytes()
            assert not array.flags.writeable


@pytest.fixture(scope="module")
def server(preset_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(preset_repo, log=tmp_path_factory.mktemp("log") / "server.log") as started:
        yield started


@pytest.fixture(scope="module")
def plain(server: Running) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_same_bits_as_in_messages_and_no_tensor_on_the_wire(
    server: Running, plain: Client, dtype: str
) -> None:
    outputs = [output.name for output in plain.model(MODEL).spec.outputs]
    images = [_picture(0), b"no picture", _picture(1), _picture(2)]
    with Client(server.address, transport="shm") as client:
        ours = client.embed(images, model=MODEL, outputs=outputs, dtype=dtype, errors="return")
        size = _last_bytes(server)
    _equal(ours, plain.embed(images, model=MODEL, outputs=outputs, dtype=dtype, errors="return"))
    assert isinstance(ours[1], ImageError)
    assert size < WIRE < _last_bytes(server)


@pytest.mark.parametrize(
    "chosen",
    [
        {"dtype": "int8"},
        {"dtype": "bfloat16", "view": "mean"},
        {"dtype": "float16", "patches": [3, 0]},
        {"dtype": "float16", "l2_normalize": True},
        {"rect": (1, 0, 2, 3)},
    ],
    ids=str,
)
def test_what_is_selected_is_the_same(server: Running, plain: Client, chosen: dict[str, Any]) -> None:
    picture = _picture(0)
    with Client(server.address, transport="shm") as client:
        for _ in range(2):
            got, want = (one.embed(picture, model=MODEL, **chosen) for one in (client, plain))
            for name, array in want.outputs.items():
                np.testing.assert_array_equal(got.outputs[name], array)
            assert {name: array.tolist() for name, array in got.scales.items()} == {
                name: array.tolist() for name, array in want.scales.items()
            }


def test_tensors_of_a_request_go_through_shared_memory_too(server: Running, plain: Client) -> None:
    sizes = [(900, 700), (31, 47), (32, 32), (1, 1)]
    pictures = [
        np.random.default_rng(n).integers(0, 256, (*size, 3), np.uint8) for n, size in enumerate(sizes)
    ]
    rows = [np.random.default_rng(n).standard_normal((3, 32, 32), np.float32) for n in range(2)]
    images = [*pictures, *map(Prepared, rows)]
    with Client(server.address, transport="shm") as client:
        ours = client.embed(images, model=MODEL, errors="return")
        _equal(ours, plain.embed(images, model=MODEL, errors="return"))
        del ours
        assert client._sharing is not None
        region = client._sharing._region
        assert region is not None
        whole = region.lend(region.size - 4096)
        assert whole is not None  # all of it has come back
        request = Request(b"", range(6), {}, [load(image) for image in images], Wish(model=MODEL))
        message = frame_shared(request, whole, whole)
        assert len(message) < WIRE < 900 * 700 * 3 < request.shared_bytes
        assert len(request.framed()) > request.shared_bytes - 6 * 64


def test_results_stay_what_they_are_after_later_calls_and_the_end_of_the_client(
    server: Running, plain: Client
) -> None:
    with Client(server.address, transport="shm") as client:
        kept = [client.embed(_picture(seed), model=MODEL) for seed in range(12)]
        for seed in range(40):  # of these nothing is kept
            client.embed([_picture(100 + seed)] * 3, model=MODEL)
        region = client._sharing._region  # type: ignore[union-attr]
        assert region is not None
        assert region.lost == 0
    _equal(kept, plain.embed([_picture(seed) for seed in range(12)], model=MODEL))
    part = kept[3].patches[2:4]
    expected = part.copy()
    del kept
    assert np.array_equal(part, expected)


def test_where_no_memory_is_free_results_come_in_messages(
    server: Running, plain: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "REGION_BYTES", 8192)  # 4096 are lent; an image takes 1088
    with Client(server.address, transport="shm") as client:
        kept = [client.embed(_picture(seed), model=MODEL) for seed in range(5)]
        assert _last_bytes(server) > WIRE
        _equal(kept, plain.embed([_picture(seed) for seed in range(5)], model=MODEL))
        del kept
        for seed in range(5):
            client.embed(_picture(seed), model=MODEL)
            assert _last_bytes(server) < WIRE


def test_threads_share_a_client_and_each_gets_its_own_answer(server: Running, plain: Client) -> None:
    expected = plain.embed([_picture(seed) for seed in range(160)], model=MODEL)
    with Client(server.address, transport="shm") as client:

        def check(thread: int) -> None:
            kept: list[Embedding] = []
            for seed in range(thread, 160, 8):
                kept.append(client.embed(_picture(seed), model=MODEL))
                if seed % 3 == 0:
                    kept[-1] = expected[seed]  # gives its memory back
            _equal(kept, expected[thread::8])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(check, range(8)))


async def test_the_client_for_asyncio_and_callers_that_leave(server: Running, plain: Client) -> None:
    expected = plain.embed([_picture(seed) for seed in range(24)], model=MODEL)
    async with AsyncClient(server.address, transport="shm") as client:
        first = await client.embed(_picture(0), model=MODEL)
        assert _last_bytes(server) < WIRE
        tasks = [asyncio.create_task(client.embed(_picture(seed), model=MODEL)) for seed in range(24)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks[::4]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        stayed = [n for n in range(24) if n % 4]
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::4])
        _equal([results[n] for n in stayed], [expected[n] for n in stayed])  # type: ignore[misc]
        streamed = [r async for r in client.embed_iter(map(_picture, range(24)), model=MODEL, batch=5)]
        _equal(streamed, expected)
    _equal([first], expected[:1])


def test_memory_goes_when_its_owner_closes_or_is_killed(server: Running) -> None:
    assert _until(lambda: _mapped(server) == 0)  # what earlier tests used
    with Client(server.address, transport="shm") as client:
        client.embed(_picture(0), model=MODEL)
        assert _mapped(server) == 1
        line = [sys.executable, "-c", OWNER, server.address, MODEL]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "embedded\n"
            assert _mapped(server) == 2
            owner.send_signal(signal.SIGKILL)
        assert _until(lambda: _mapped(server) == 1)
        client.embed(_picture(1), model=MODEL)
        assert _last_bytes(server) < WIRE  # the other one's memory is what it was
    assert _until(lambda: _mapped(server) == 0)


def test_a_server_that_died_is_unavailable_and_the_next_one_gets_new_memory(
    small_repo: Path, tmp_path: Path
) -> None:
    with running(small_repo, log=tmp_path / "one.log") as one, Client(one.address, transport="shm") as client:
        expected = client.embed(_picture(0))
        one.process.kill()
        one.process.wait()
        with pytest.raises(UnavailableError):
            client.embed(_picture(0), timeout=5)
        port = one.address.rpartition(":")[2]
        with running(small_repo, "--port", port, log=tmp_path / "two.log") as two:
            assert _until(lambda: _shared_again(client, two), 20)
            _equal([client.embed(_picture(0))], [expected])


def _shared_again(client: Client, server: Running) -> bool:
    with suppress(UnavailableError):  # the old connection breaks only now
        client.embed(_picture(0))
    return bool(server.lines("embed")) and _last_bytes(server) < WIRE


@pytest.mark.parametrize("address", ["vitral.example:50051", "127.0.0.1:1,127.0.0.1:2"])
def test_shared_memory_needs_one_server_on_this_machine(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match="one server on this machine, not"):
        Client(address, transport="shm")
    assert shared.sharing("auto", address) is None


def test_a_transport_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="transport is one of grpc, shm, auto, not 'tcp'"):
        Client(transport="tcp")  # type: ignore[arg-type]


def test_a_server_that_takes_no_memory_is_an_error_only_where_it_was_asked_for(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)  # as in a container that numbers processes anew
    with Client(server.address, transport="shm") as client, pytest.raises(RegionError, match="no memfd open"):
        client.embed(_picture(0), model=MODEL)
    with Client(server.address, transport="auto") as client:
        client.embed(_picture(0), model=MODEL)
        assert _last_bytes(server) > WIRE


def test_a_region_of_which_too_much_is_lost_is_replaced(server: Running) -> None:
    with Client(server.address, transport="shm") as client:
        kept = client.embed(_picture(0), model=MODEL)
        expected, sharing = kept.patches.copy(), client._sharing
        assert sharing is not None
        assert sharing._region is not None
        old = sharing._region
        old.lose(old.size // 2 + 1)
        client.embed(_picture(1), model=MODEL)
        assert sharing._region is not old
        assert _last_bytes(server) < WIRE
        assert np.array_equal(kept.patches, expected)
