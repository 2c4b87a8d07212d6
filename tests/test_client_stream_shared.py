"""`embed_stream` with shared memory: the same bits, nothing on the wire, and memory that comes back."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from relay import cutting
from serving import Running, running

from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from vitral_client import AsyncClient, Client, Embedding, ImageError, Prepared, shared
from vitral_client.memory import Region
from vitral_client.shared import Sharing

PICTURES = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
WIRE = 400
"""Bytes of a message without tensors are fewer."""

Results = AsyncIterator[tuple[int, Embedding | ImageError]]
Stream = Callable[..., Results]


@pytest.fixture(scope="module")
def server(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(small_repo, log=tmp_path_factory.mktemp("stream") / "log") as started:
        yield started


@pytest.fixture(scope="module")
def truth(server: Running) -> list[np.ndarray]:
    with Client(server.address) as client:
        return [client.embed(picture).patches for picture in PICTURES]


@pytest.fixture(params=["blocking", "awaited"])
def stream(request: pytest.FixtureRequest) -> Stream:
    """`embed_stream` of a client of one kind at an address, as an asynchronous generator."""

    async def blocking(address: str, images: Any, **options: Any) -> Results:
        with Client(address, transport="shm") as client:
            results = client.embed_stream(images, **options)
            try:
                while (result := await asyncio.to_thread(next, results, None)) is not None:
                    yield result
            finally:
                results.close()

    async def awaited(address: str, images: Any, **options: Any) -> Results:
        async with AsyncClient(address, transport="shm") as client:
            async for result in client.embed_stream(images, **options):
                yield result

    return blocking if request.param == "blocking" else awaited


@pytest.fixture
def regions(monkeypatch: pytest.MonkeyPatch) -> list[Region]:
    """Every region that a client makes."""
    made: list[Region] = []

    class Noted(Region):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            made.append(self)

    monkeypatch.setattr(shared, "Region", Noted)
    return made


def _many(count: int) -> Iterator[np.ndarray]:
    return (PICTURES[number % len(PICTURES)] for number in range(count))


def _right(number: int, result: Embedding | ImageError, truth: list[np.ndarray]) -> bool:
    expected = truth[number % len(truth)]
    return isinstance(result, Embedding) and np.allclose(result.patches, expected, atol=1e-5)


@pytest.mark.parametrize("ordered", [True, False])
async def test_every_image_once_and_no_tensor_on_the_wire(
    server: Running, stream: Stream, truth: list[np.ndarray], ordered: bool
) -> None:
    before = len(server.lines("embed_stream"))
    kept = [one async for one in stream(server.address, _many(100), ordered=ordered, in_flight=20)]
    numbers = [number for number, _ in kept]
    assert (numbers if ordered else sorted(numbers)) == list(range(100))
    # All are held until the end: no view's memory was used for another result.
    assert all(_right(number, result, truth) for number, result in kept)
    (line,) = server.lines("embed_stream")[before:]
    assert (line["items"], line["code"]) == (100, "OK")
    sizes = [(one["bytes_in"], one["bytes_out"]) for one in server.lines("embed_item")[-100:]]
    assert all(out < WIRE for _, out in sizes), sizes


@pytest.mark.parametrize(
    "chosen",
    [
        {"dtype": "int8"},
        {"dtype": "float16", "view": "mean"},
        {"rect": (1, 0, 2, 3), "l2_normalize": True},
    ],
    ids=str,
)
async def test_what_is_selected_is_the_same(server: Running, stream: Stream, chosen: dict[str, Any]) -> None:
    with Client(server.address) as client:
        want = client.embed(PICTURES[3], **chosen)
    ((_, got),) = [one async for one in stream(server.address, [PICTURES[3]], **chosen)]
    for mine, its in ((got.outputs, want.outputs), (got.scales, want.scales)):
        assert mine.keys() == its.keys()
        for name in its:
            np.testing.assert_array_equal(mine[name], its[name])
    assert (got.selections, got.grid) == (want.selections, want.grid)


ROW, OTHER = (Prepared(np.zeros((3, side, side), np.float32)) for side in (32, 16))
MIXED = [PICTURES[0], b"no picture", ROW, OTHER, Path("none.jpg"), PICTURES[1]] * 5


async def test_bad_images_and_files_and_rows_in_one_stream(
    server: Running, stream: Stream, truth: list[np.ndarray]
) -> None:
    results = dict([one async for one in stream(server.address, iter(MIXED))])
    causes = [result.cause if isinstance(result, ImageError) else "" for _, result in sorted(results.items())]
    assert causes == ["", "format", "", "shape", "unreadable", ""] * 5
    assert _right(0, results[0], truth)
    assert _right(1, results[5], truth)


def test_what_was_lent_comes_back(server: Running, regions: list[Region]) -> None:
    with Client(server.address, transport="shm") as client:
        results = list(client.embed_stream(iter(MIXED)))
        assert len(results) == len(MIXED)
        results.clear()
        gc.collect()  # the stream's threads and generators refer to each other
        (region,) = regions
        assert region.lost == 0
        assert region.lend(region.size - 4096) is not None, "the largest range there is"


async def test_what_finds_no_room_goes_through_messages(
    server: Running, stream: Stream, truth: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for some of them only, and never for a picture beside its outputs."""
    monkeypatch.setattr(shared, "REGION_BYTES", 4096 + 3 * 1024)
    kept = [one async for one in stream(server.address, _many(50), ordered=True)]
    assert [number for number, _ in kept] == list(range(50))
    assert all(_right(number, result, truth) for number, result in kept)
    ways = {one["bytes_out"] < WIRE for one in server.lines("embed_item")[-50:]}
    assert ways == {True, False}


async def test_a_region_that_the_server_does_not_know_loses_nothing(
    server: Running, stream: Stream, truth: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Sharing.region

    def renamed(self: Sharing, deadline: Any) -> Any:
        region = yield from found(self, deadline)
        assert region is not None
        region.name = "another"
        return region

    monkeypatch.setattr(Sharing, "region", renamed)
    kept = [one async for one in stream(server.address, _many(40), ordered=True)]
    assert [number for number, _ in kept] == list(range(40))
    assert all(_right(number, result, truth) for number, result in kept)


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_stream_that_breaks_goes_on_through_messages(
    server: Running, stream: Stream, truth: list[np.ndarray], ordered: bool
) -> None:
    # The memory is registered on the first connection, the stream is the second.
    with cutting(server.address, after=6000, which=2) as relay:
        numbers = []
        async for number, result in stream(relay.address, _many(120), ordered=ordered):
            numbers.append(number)
            assert _right(number, result, truth)
    assert relay.cuts == 1
    assert (numbers if ordered else sorted(numbers)) == list(range(120))


async def test_whoever_leaves_takes_what_is_lent_along(
    server: Running, stream: Stream, regions: list[Region]
) -> None:
    async with aclosing(stream(server.address, _many(100_000), in_flight=8)) as results:  # type: ignore[type-var]
        async for _ in results:
            break
    (region,) = regions
    assert region.lost <= 9 * 1024


def test_a_range_that_is_too_small_fails_its_own_item(server: Running) -> None:
    pixels = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=(32, 32, 3), payload=0)
    region = Region(1 << 16)
    request = pb.RegisterRegionRequest(
        process=os.getpid(), descriptor=region.descriptor, size=region.size, proof=region.proof
    )

    def item(number: int, offset: int, size: int) -> pb.EmbedStreamRequest:
        reply = tensor_pb2.SharedRange(region=name, offset=offset, size=size)
        asked = pb.Item(pixels=pixels)
        return pb.EmbedStreamRequest(id=number, item=asked, reply=reply, payloads=[PICTURES[0].tobytes()])

    with grpc.insecure_channel(server.address) as channel:
        stub = EmbeddingServiceStub(channel)
        name = stub.RegisterRegion(request).region
        config = pb.EmbedStreamRequest(config=pb.EmbedStreamConfig(model="tiny"))
        sent = [config, item(1, 4096, 960), item(2, 4096, 1024), item(3, 65_536, 1024), item(4, 4100, 1024)]
        replies = {one.id: one.result for one in stub.EmbedStream(iter(sent), timeout=60)}
    assert {number for number, result in replies.items() if result.HasField("error")} == {1, 3, 4}
    assert {replies[number].error.reason for number in (1, 3, 4)} == {"region"}
    where = replies[2].outputs[0].shared
    assert (where.region, where.offset, where.size) == (name, 4096, 1024)
    with Client(server.address) as client:
        want = client.embed(PICTURES[0]).patches
    got = region.array(4096, 1024).view(np.float32).reshape(want.shape)
    np.testing.assert_allclose(got, want, atol=1e-5)
