"""`embed_stream` of both clients against a real server: every result once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Running, running

from vitral.errors import FingerprintMismatchError, ModelNotFoundError
from vitral_client import (
    AsyncClient,
    Client,
    DeadlineError,
    Embedding,
    ImageError,
    InvalidArgumentError,
    UnavailableError,
)

Streams = Callable[..., AsyncIterator[tuple[int, Embedding | ImageError]]]
PICTURES = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def server(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(small_repo, log=tmp_path_factory.mktemp("stream") / "log") as started:
        yield started


async def _awaited(images: Any) -> AsyncIterator[Any]:
    for image in images:
        await asyncio.sleep(0)
        yield image


def _streams(kind: str, address: str) -> Streams:
    """`embed_stream` of a client of one kind, as an asynchronous generator."""

    async def stream(images: Any, **options: Any) -> AsyncIterator[Any]:
        if kind == "blocking":
            with Client(address) as client:
                results = client.embed_stream(images, **options)
                try:
                    while (result := await asyncio.to_thread(next, results, None)) is not None:
                        yield result
                finally:
                    results.close()
            return
        async with AsyncClient(address) as opened:
            source = images if kind == "plain" else _awaited(images)
            async for result in opened.embed_stream(source, **options):
                yield result

    return stream


@pytest.fixture(params=["blocking", "plain", "awaited"])
def stream(request: pytest.FixtureRequest, server: Running) -> Streams:
    return _streams(request.param, server.address)


@pytest.fixture(scope="module")
def truth(server: Running) -> list[np.ndarray]:
    with Client(server.address) as client:
        return [client.embed(picture).patches for picture in PICTURES]


def _many(count: int) -> Iterator[np.ndarray]:
    return (PICTURES[number % len(PICTURES)] for number in range(count))


def _right(number: int, result: Embedding | ImageError, truth: list[np.ndarray]) -> bool:
    """Within rounding: batches are of other sizes."""
    expected = truth[number % len(truth)]
    return isinstance(result, Embedding) and np.allclose(result.patches, expected, atol=1e-5)


@pytest.mark.parametrize("ordered", [True, False])
async def test_every_image_once(stream: Streams, truth: list[np.ndarray], ordered: bool) -> None:
    results = [one async for one in stream(_many(200), ordered=ordered, in_flight=20)]
    numbers = [number for number, _ in results]
    assert (numbers if ordered else sorted(numbers)) == list(range(200))
    assert all(_right(number, result, truth) for number, result in results)


async def test_nothing_in_nothing_out(stream: Streams) -> None:
    assert [one async for one in stream(iter(()))] == []


async def test_views_and_dtypes_are_embeds(stream: Streams, server: Running) -> None:
    ask = {"view": "mean", "dtype": "int8", "l2_normalize": True}
    with Client(server.address) as client:
        whole = client.embed(PICTURES[3], **ask)
    ((number, result),) = [one async for one in stream([PICTURES[3]], **ask)]
    assert number == 0
    for one, other in ((result.outputs, whole.outputs), (result.scales, whole.scales)):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert (result.selections, result.version) == (whole.selections, whole.version)


@pytest.mark.parametrize("ordered", [True, False])
async def test_bad_images_are_data_in_their_place(stream: Streams, ordered: bool, tmp_path: Path) -> None:
    """More in a row than may be under way: those that cannot be read, and those the server refuses."""
    missing = tmp_path / "none.jpg"
    images = [missing] * 9 + [PICTURES[0]] + [b"no picture"] * 9 + [missing, PICTURES[1], 7]
    results = [one async for one in stream(iter(images), ordered=ordered, in_flight=3)]
    numbers = [number for number, _ in results]
    assert (numbers if ordered else sorted(numbers)) == list(range(22))
    said = {number: result.cause for number, result in results if isinstance(result, ImageError)}
    assert said == dict.fromkeys([*range(9), 19], "unreadable") | dict.fromkeys(range(10, 19), "format") | {
        21: "argument"
    }
    assert all(result.index == number for number, result in results if isinstance(result, ImageError))


async def test_images_are_never_further_ahead_than_the_bound(stream: Streams) -> None:
    pulled, given, ahead = 0, 0, []

    def images() -> Iterator[np.ndarray]:
        nonlocal pulled
        for picture in _many(60):
            pulled += 1
            ahead.append(pulled - given)
            yield picture

    async for _ in stream(images(), in_flight=5):
        given += 1
        await asyncio.sleep(0.005)
    assert given == 60
    assert 2 <= max(ahead) <= 5 + 5  # five under way, and as many that were handed over at once


async def test_results_come_while_the_next_image_is_waited_for(stream: Streams) -> None:
    answered = threading.Event()

    def images() -> Iterator[np.ndarray]:
        yield PICTURES[0]
        for _ in range(200):  # asyncio's own loop must not be held up
            if answered.is_set():
                break
            yield PICTURES[1]
        yield PICTURES[2]

    numbers = []
    async for number, _ in stream(images(), in_flight=1):
        numbers.append(number)
        if len(numbers) == 3:
            answered.set()
    assert numbers == list(range(len(numbers)))
    assert 4 <= len(numbers) <= 6


async def test_what_the_images_raise_comes_after_what_was_answered(stream: Streams) -> None:
    def images() -> Iterator[np.ndarray]:
        yield from _many(7)
        raise LookupError("no more")

    results = stream(images(), ordered=True)
    numbers = []
    with pytest.raises(LookupError, match="no more"):
        numbers += [number async for number, _ in _kept(results, numbers)]
    assert numbers == list(range(7))


async def _kept(results: AsyncIterator[Any], numbers: list[int]) -> AsyncIterator[Any]:
    async for number, result in results:
        numbers.append(number)
        if number < 0:
            yield number, result


async def test_whoever_leaves_ends_the_stream(server: Running, small_repo: Path, tmp_path: Path) -> None:
    with running(small_repo, log=tmp_path / "log") as own:
        for kind in ("blocking", "plain"):
            results = _streams(kind, own.address)(_many(100_000), in_flight=8)
            assert (await anext(results))[0] >= 0
            await results.aclose()  # type: ignore[attr-defined]
        assert own.stop() == 0
        lines = own.lines("embed_stream")
    assert [line["code"] for line in lines] == ["CANCELLED", "CANCELLED"]
    assert all(line["items"] < 1000 for line in lines)


@pytest.mark.parametrize("kind", ["blocking", "plain"])
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_server_that_dies_loses_nothing(
    small_repo: Path, truth: list[np.ndarray], tmp_path: Path, kind: str, ordered: bool
) -> None:
    with running(small_repo, log=tmp_path / "a") as first, running(small_repo, log=tmp_path / "b") as second:
        stream = _streams(kind, f"{first.address},{second.address}")
        results = []
        async for number, result in stream(_many(600), ordered=ordered, in_flight=16):
            results.append(number)
            assert _right(number, result, truth)
            if len(results) == 100:  # the one that answers, whichever that is
                (first if first.lines("embed_item") else second).process.kill()
    assert (results if ordered else sorted(results)) == list(range(600))


async def test_a_server_that_leaves_and_one_that_is_gone(small_repo: Path, tmp_path: Path) -> None:
    with running(small_repo, log=tmp_path / "log") as server:
        results: list[int] = []

        async def taken() -> None:
            async for number, _ in _streams("plain", server.address)(_many(10_000), ordered=True):
                results.append(number)
                if number == 50:
                    server.process.terminate()

        with pytest.raises(UnavailableError):
            await taken()
        assert server.process.wait(20) == 0
    assert results == list(range(len(results)))
    assert len(results) > 50


async def test_its_end_is_told(stream: Streams) -> None:
    def slow() -> Iterator[np.ndarray]:
        yield PICTURES[0]
        time.sleep(0.4)
        yield PICTURES[1]

    for error, options in (
        (ModelNotFoundError, {"model": "none"}),
        (FingerprintMismatchError, {"expect_fingerprint": "0" * 64}),
        (DeadlineError, {"timeout": 0.3}),
        (InvalidArgumentError, {"outputs": "none"}),
    ):
        with pytest.raises(error):
            _ = [one async for one in stream(slow(), **options)]


@pytest.mark.parametrize("options", [{"in_flight": 0}, {"ordered": 1}, {"timeout": 0}, {"dtype": "int4"}])
def test_wrong_arguments_are_refused_at_once(options: dict[str, Any]) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidArgumentError):
        client.embed_stream(_many(1), **options)
    with pytest.raises(InvalidArgumentError):
        AsyncClient("127.0.0.1:1").embed_stream(_many(1), **options)
