"""`embed_iter` of both clients against hand-made replies: order, bounds and errors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from client_wire import Wire, expected, serve, spec

import vitral_client
from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import AsyncClient, Client, ImageError

Stream = Callable[..., AsyncIterator[Any]]


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve(Wire()) as running:
        yield running


@pytest.fixture
async def clients(wire: Wire) -> AsyncIterator[list[Stream]]:
    """Both clients' `embed_iter`, and asyncio's over an asynchronous iterable."""
    async with AsyncClient(wire.address, timeout=10) as awaiting:
        with Client(wire.address, timeout=10) as blocking:

            async def waited(images: Any, **options: Any) -> AsyncIterator[Any]:
                for result in blocking.embed_iter(images, **options):
                    yield result

            yield [
                waited,
                awaiting.embed_iter,
                lambda images, **options: awaiting.embed_iter(_awaited(images), **options),
            ]


async def _awaited(images: Any) -> AsyncIterator[Any]:
    for image in images:
        await asyncio.sleep(0)
        yield image


async def _drained(results: AsyncIterator[Any]) -> tuple[list[Any], Exception | None]:
    """All that came, and how it ended."""
    given: list[Any] = []
    try:
        async for result in results:
            given.append(result)  # noqa: PERF401  (a comprehension would lose what came before the error)
    except Exception as error:
        return given, error
    return given, None


async def test_results_come_in_the_order_of_the_images(wire: Wire, clients: list[Stream]) -> None:
    def later_first(request: pb.EmbedRequest, _: Any) -> None:
        first = int(request.items[0].encoded)
        time.sleep(0.05 if first % 8 == 0 else 0)

    wire.on_embed = later_first  # type: ignore[assignment]
    images = [str(number).encode() for number in range(30)]
    for stream in clients:
        wire.requests.clear()
        results = [result async for result in stream(iter(images), batch=4, in_flight=3)]
        assert len(results) == 30
        for image, result in zip(images, results, strict=True):
            np.testing.assert_array_equal(result.patches, expected(image))
        assert sorted(len(request.items) for request in wire.requests) == [2, 4, 4, 4, 4, 4, 4, 4]


async def test_nothing_in_nothing_out_and_nothing_sent(wire: Wire, clients: list[Stream]) -> None:
    for stream in clients:
        assert [result async for result in stream(iter(()))] == []
    assert not wire.paths


async def test_the_input_is_never_pulled_further_ahead_than_the_bound(
    wire: Wire, clients: list[Stream]
) -> None:
    def when_four_have_come(_: pb.EmbedRequest, __: Any) -> None:
        until = time.monotonic() + 5
        while len(wire.requests) < 4 and time.monotonic() < until:
            time.sleep(0.002)

    wire.on_embed = when_four_have_come  # type: ignore[assignment]
    for stream in clients:
        wire.requests.clear()
        pulled = given = 0
        ahead = []

        def images() -> Iterator[bytes]:
            nonlocal pulled
            for number in range(60):
                pulled += 1
                ahead.append(pulled - given)  # noqa: B023  (called within this turn)
                yield str(number).encode()

        async for _ in stream(images(), batch=3, in_flight=4):
            given += 1
            await asyncio.sleep(0.002)
            ahead.append(pulled - given)
        assert given == 60
        assert max(ahead) == 12, "neither further ahead than the bound, nor less than it allows"


async def test_as_many_requests_as_the_bound_are_in_work_at_once(wire: Wire, clients: list[Stream]) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def slow(*_: Any) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1

    wire.on_embed = slow  # type: ignore[assignment]
    for stream in clients:
        most = 0
        async for _ in stream((b"x" for _ in range(24)), batch=2, in_flight=4):
            pass
        assert most == 4


async def test_errors_are_data_with_their_place_in_the_stream(
    wire: Wire, clients: list[Stream], tmp_path: Path
) -> None:
    odd: dict[int, tuple[Any, str]] = {
        3: (tmp_path / "missing.jpg", "unreadable"),
        8: (b"bad", "truncated"),
        9: (np.zeros(4, np.uint8), "argument"),
        10: (None, "argument"),
        11: (bytes(64 << 20), "too_large"),
    }
    images = [odd[number][0] if number in odd else str(number).encode() for number in range(14)]
    for stream in clients:
        results = [result async for result in stream(images, batch=4, in_flight=2)]
        failed = {result.index: result for result in results if isinstance(result, ImageError)}
        assert {index: error.cause for index, error in failed.items()} == {
            index: cause for index, (_, cause) in odd.items()
        }
        assert [results.index(error) for error in failed.values()] == list(odd)
        assert "not of shape 4" in str(failed[9])
        assert "over the limit of 67108864 bytes" in str(failed[11])
        np.testing.assert_array_equal(results[13].patches, expected(b"13"))


async def test_the_callers_own_exception_comes_out_as_it_is_after_what_came_before(
    clients: list[Stream],
) -> None:
    class OwnError(Exception):
        pass

    for error in (OwnError("mine"), vitral_client.TooLargeError("also mine")):

        def images(error: Exception = error) -> Iterator[bytes]:
            for number in range(10):
                yield str(number).encode()
            raise error

        for stream in clients:
            given, raised = await _drained(stream(images(), batch=4, in_flight=2))
            assert raised is error
            assert len(given) == 10


async def test_a_request_that_fails_ends_the_stream_after_what_came_before(
    wire: Wire, clients: list[Stream]
) -> None:
    def refuse(request: pb.EmbedRequest, context: grpc.ServicerContext) -> None:
        if int(request.items[0].encoded) == 8:
            context.abort(grpc.StatusCode.INTERNAL, "the third part")

    wire.on_embed = refuse  # type: ignore[assignment]
    for stream in clients:
        images = (str(number).encode() for number in range(40))
        given, raised = await _drained(stream(images, batch=4, in_flight=3))
        assert isinstance(raised, vitral_client.ServerError)
        assert "the third part" in str(raised)
        assert len(given) == 8


async def test_a_stream_that_cannot_begin_gives_what_needs_no_server(
    wire: Wire, clients: list[Stream], tmp_path: Path
) -> None:
    images = [tmp_path / "a", tmp_path / "b", b"x"]
    for stream in clients:
        given, raised = await _drained(stream(images, model="none", batch=2))
        assert isinstance(raised, vitral_client.ModelNotFoundError)
        assert [error.cause for error in given] == ["unreadable", "unreadable"]


async def test_all_of_a_stream_are_of_one_fingerprint(wire: Wire, clients: list[Stream]) -> None:
    def demanded(request: pb.EmbedRequest, context: grpc.ServicerContext) -> None:
        now = wire.models["tiny"].spec.fingerprint
        if request.expect_fingerprint != now:
            context.set_trailing_metadata((("vitral-error", "fingerprint_mismatch"),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"model tiny has fingerprint {now[:3]}")

    wire.on_embed = demanded  # type: ignore[assignment]
    for number, stream in enumerate(clients):
        wire.models["tiny"] = pb.ServedModel(spec=spec(fingerprint=f"{number}" * 64), version="3", state=2)
        wire.models["tiny"].name = "tiny"

        def images() -> Iterator[bytes]:
            for pulled in range(40):
                if pulled == 20:
                    wire.models["tiny"].spec.fingerprint = "f" * 64
                yield b"x"

        given, raised = await _drained(stream(images(), batch=4, in_flight=2))
        assert isinstance(raised, vitral_client.FingerprintMismatchError)
        assert "has fingerprint fff" in str(raised)
        assert {result.fingerprint for result in given} == {f"{number}" * 64}
        assert 12 <= len(given) <= 20


async def test_a_caller_may_demand_a_fingerprint(wire: Wire, clients: list[Stream]) -> None:
    for stream in clients:
        async for _ in stream([b"x"], expect_fingerprint="e" * 64):
            pass
    assert {request.expect_fingerprint for request in wire.requests} == {"e" * 64}


async def test_dtype_outputs_and_model_are_those_of_embed(wire: Wire, clients: list[Stream]) -> None:
    for stream in clients:
        results = [one async for one in stream([b"x", b"y"], model="tiny/3", dtype="float16")]
        assert {result.patches.dtype for result in results} == {np.dtype(np.float16)}
        results = [one async for one in stream([b"x"], outputs="extra", size=(4, 8))]
        assert list(results[0].outputs) == ["extra"]
        assert wire.requests[-1].size.width == 8


@pytest.mark.parametrize(
    ("name", "value"), [("batch", 0), ("batch", 2.0), ("in_flight", -1), ("in_flight", True)]
)
@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_bounds_are_checked_at_once(cls: Any, name: str, value: Any) -> None:
    said = f"{name} is a whole number from 1 on, not {value!r}"
    with pytest.raises(vitral_client.InvalidArgumentError, match=said):
        cls("127.0.0.1:1").embed_iter([b"x"], **{name: value})


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_other_arguments_are_checked_at_once_too(cls: Any) -> None:
    client = cls("127.0.0.1:1")
    with pytest.raises(vitral_client.InvalidArgumentError, match="images is one or several"):
        client.embed_iter(5)
    with pytest.raises(vitral_client.InvalidArgumentError, match="dtype is one of"):
        client.embed_iter([], dtype="int3")
    with pytest.raises(vitral_client.InvalidArgumentError, match="timeout is a positive number"):
        client.embed_iter([], timeout=-1)
