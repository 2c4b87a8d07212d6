"""Large requests are cut so that neither they nor their replies cross the limit of a message."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import photographs
import pytest
from client_wire import F32, Wire, expected, serve
from serving import Running, running

import vitral_client
from vitral import sizes
from vitral.limits import MAX_ITEMS, MAX_MESSAGE_BYTES, MAX_REPLY_BYTES
from vitral.selection import Selection
from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import AsyncClient, Client, Embedding
from vitral_client.parts import Parts
from vitral_client.request import Wish

GET_MODEL = "/vitral.v1.EmbeddingService/GetModel"
MIB = 1 << 20


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve(Wire()) as running:
        yield running


@pytest.fixture
def client(wire: Wire) -> Iterator[Client]:
    with Client(wire.address, timeout=30) as running:
        yield running


@pytest.fixture(scope="module")
def server(base_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(base_repo, log=tmp_path_factory.mktemp("log") / "server.log") as started:
        yield started


def _pixels(number: int) -> np.ndarray:
    return np.full((16, 16, 3), number % 251, np.uint8)


async def test_two_hundred_images_of_602_kb_of_reply_each(server: Running) -> None:
    images: list[np.ndarray | bytes | Path] = [_pixels(number) for number in range(200)]
    images[7], images[150], images[199] = b"no image", Path("missing.jpg"), photographs.ROCKET
    with Client(server.address, timeout=120) as client:
        alone = {number: client.embed(images[number]) for number in (0, 110, 111, 112, 198, 199)}
        before = len(server.lines("embed"))
        results = client.embed(images, errors="return")
        lines = server.lines("embed")[before:]
        with pytest.raises(vitral_client.ImageErrors, match="2 of 200 images failed") as failed:
            client.embed(images)
    async with AsyncClient(server.address, timeout=120) as awaiting:
        again = await awaiting.embed(images, errors="return")
    assert len(results) == len(again) == 200
    assert [result.index for result in results if not isinstance(result, Embedding)] == [7, 150]
    assert list(failed.value.errors) == [7, 150]
    for number, one in alone.items():
        for result in (results[number], again[number]):
            assert isinstance(result, Embedding)
            np.testing.assert_array_equal(result.patches, one.patches)
    assert [line["images"] for line in lines] == [111, 88]
    assert all(line["bytes_out"] <= MAX_MESSAGE_BYTES for line in lines)


def test_what_the_client_sends_at_most_is_what_the_server_takes_at_most(server: Running) -> None:
    with Client(server.address) as client:
        spec = client.model().spec
    for dtype, outputs in ((F32, ["patch_embeddings"]), (F32, ["patch_embeddings"] * 3)):
        most = sizes.most_images(spec, [(name, Selection(dtype=dtype)) for name in outputs])
        items = [pb.Item(encoded=b"no image")] * (most + 1)
        wanted = [pb.OutputRequest(name=name, dtype=dtype) for name in outputs]
        with grpc.insecure_channel(server.address) as channel:
            call = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")
            assert call(pb.EmbedRequest(items=items[:-1], outputs=wanted).SerializeToString(), timeout=20)
            with pytest.raises(grpc.RpcError, match=f"the reply to {most + 1} images takes"):
                call(pb.EmbedRequest(items=items, outputs=wanted).SerializeToString(), timeout=20)


def test_more_images_than_one_request_may_have(small_repo: Path, tmp_path: Path) -> None:
    images = [_pixels(number) for number in range(MAX_ITEMS + 44)]
    with running(small_repo, log=tmp_path / "log") as server, Client(server.address) as client:
        results = client.embed(iter(images))
        last = client.embed(images[-1])
        assert [line["images"] for line in server.lines("embed")] == [MAX_ITEMS, 44, 1]
    assert len(results) == len(images)
    np.testing.assert_array_equal(results[-1].patches, last.patches)


def test_requests_are_cut_by_their_own_bytes_too(client: Client, wire: Wire) -> None:
    images = [np.full((1, MIB, 3), number, np.uint8) for number in range(50)]  # 3 MiB each
    for image, result in zip(images, client.embed(images), strict=True):
        np.testing.assert_array_equal(result.patches, expected(image.tobytes()))
    assert [len(request.items) for request in wire.requests] == [21, 21, 8]
    assert max(request.ByteSize() for request in wire.requests) <= MAX_MESSAGE_BYTES
    assert [request.expect_fingerprint[:1] for request in wire.requests] == ["", "f", "f"]


def test_an_image_that_no_request_can_hold_fails_alone(client: Client, wire: Wire) -> None:
    images = [b"a", bytes(MAX_MESSAGE_BYTES), b"c", bytes(MAX_MESSAGE_BYTES - 100)]
    results = client.embed(images, errors="return")
    assert [getattr(result, "cause", None) for result in results] == [None, "too_large", None, None]
    assert f"over the limit of {MAX_MESSAGE_BYTES} bytes a message" in str(results[1])
    np.testing.assert_array_equal(results[3].patches, expected(images[3]))


def test_the_small_case_costs_no_call_more(client: Client, wire: Wire) -> None:
    client.embed([b"a", b"b"])
    assert wire.paths.count(GET_MODEL) == 1  # the spec, which the first results need anyway
    before = len(wire.paths)
    client.embed([b"a"] * 16)
    client.embed(b"a")
    assert len(wire.paths) - before == 2


def test_one_deadline_over_all_parts(client: Client, wire: Wire) -> None:
    wire.on_embed = lambda *_: time.sleep(0.5)  # type: ignore[func-returns-value]
    images = [np.zeros((1, 8 * MIB, 3), np.uint8)] * 12  # two a request
    start = time.monotonic()
    with pytest.raises(vitral_client.DeadlineError, match=r"1\.2 s"):
        client.embed(images, timeout=1.2)
    assert time.monotonic() - start < 3
    assert len(wire.requests) < 6


def test_a_single_image_whose_reply_is_too_large_is_the_servers_to_refuse(client: Client, wire: Wire) -> None:
    wire.models["tiny"].spec.outputs[0].axes[1].size = MAX_MESSAGE_BYTES

    def refuse(request: pb.EmbedRequest, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("vitral-error", "too_large"), ("grpc-retry-pushback-ms", "-1")))
        context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "the reply to 1 images takes 70 bytes; the limit is 60"
        )

    wire.on_embed = refuse
    for images in (b"a", [b"a", b"b"]):
        with pytest.raises(vitral_client.TooLargeError, match="reply to 1 images takes 70 bytes; the limit"):
            client.embed(images)
    assert [len(request.items) for request in wire.requests] == [1, 1]


def test_a_model_replaced_by_one_of_larger_replies_is_learned_of(client: Client, wire: Wire) -> None:
    most = 4

    def refuse(request: pb.EmbedRequest, context: grpc.ServicerContext) -> None:
        if len(request.items) > most:
            context.set_trailing_metadata((("vitral-error", "too_large"), ("grpc-retry-pushback-ms", "-1")))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")

    wire.on_embed = refuse
    images = [str(number).encode() for number in range(10)]
    images[6] = b"bad"
    results = client.embed(images, errors="return")
    assert [len(request.items) for request in wire.requests] == [10, 5, 2, 2, 2, 2, 2]
    assert [getattr(result, "index", None) for result in results] == [*[None] * 6, 6, *[None] * 3]
    np.testing.assert_array_equal(results[9].patches, expected(b"9"))


def test_parts_read_no_further_than_one_request_ahead() -> None:
    read = 0

    def images() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield bytes(5 * MIB)

    parts = Parts(images())
    assert parts.fill()
    assert read == 13
    first = parts.take(Wish(), MAX_ITEMS)
    assert first.sent == tuple(range(12))
    assert len(first.message) <= MAX_MESSAGE_BYTES
    parts.back()
    assert parts.take(Wish(), 5).sent == (0, 1, 2, 3, 4)
    assert parts.take(Wish(), MAX_ITEMS).sent == tuple(range(5, 13))
    assert read == 13


@pytest.mark.parametrize("width", [0, 1, 1000, 10**6, MAX_REPLY_BYTES // 4, MAX_REPLY_BYTES // 4 + 1])
def test_most_images_is_the_most(wire: Wire, width: int) -> None:
    spec = wire.models["tiny"].spec
    spec.outputs[0].axes[1].size, spec.outputs[0].axes[2].size = 1, width
    wanted = [("patch_embeddings", Selection())]

    def fits(images: int) -> bool:
        payload = sizes.payload_bytes(spec, wanted, images)
        return payload <= min(MAX_REPLY_BYTES, MAX_MESSAGE_BYTES - sizes.header_bytes(wanted, images))

    most = sizes.most_images(spec, wanted)
    assert not fits(most + 1)
    assert fits(most) or most == 1
