"""Both clients over real gRPC against hand-made replies."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from client_wire import BF16, Wire, expected, serve, spec

import vitral_client
from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import AsyncClient, Client, Health, Prepared
from vitral_client.client import Client as Blocking


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve(Wire()) as running:
        yield running


@pytest.fixture
def client(wire: Wire) -> Iterator[Client]:
    with Client(wire.address, timeout=10) as running:
        yield running


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _public(cls: type) -> dict[str, inspect.Signature]:
    found = inspect.getmembers(cls, inspect.isfunction)
    return {name: inspect.signature(f) for name, f in found if not name.startswith("_") or name == "__init__"}


def test_both_clients_have_the_same_verbs_and_signatures() -> None:
    assert _public(Client) == _public(AsyncClient)
    assert {"embed", "models", "model", "health", "close"} < set(_public(Client))


def test_everything_exported_exists() -> None:
    assert all(hasattr(vitral_client, name) for name in vitral_client.__all__)
    assert vitral_client.Client is Blocking


def test_one_image_gives_one_embedding_and_a_list_a_list(client: Client, wire: Wire) -> None:
    one = client.embed(b"photograph")
    several = client.embed([b"photograph", b"other"])
    assert one.model == "tiny"
    assert one.version == "3"
    assert one.grid == (2, 2)
    assert one.timings.run_ms == 1.5
    assert one.patch_grid.shape == (2, 2, 6)
    np.testing.assert_array_equal(one.patches, expected(b"photograph"))
    np.testing.assert_array_equal(several[1].patches, expected(b"other"))
    assert several[0].timings.batch_size == 2
    assert client.embed([]) == []
    assert client.embed(image for image in [b"generated"])[0].grid == (2, 2)


def test_results_are_read_only_views_of_the_reply(client: Client) -> None:
    first, second = client.embed([b"a", b"b"])
    for result in (first, second):
        array = result.outputs["patch_embeddings"]
        assert not array.flags.writeable
        assert not array.flags.owndata
    owner = [first.patches.base, second.patches.base]
    while any(isinstance(base, np.ndarray) for base in owner):
        owner = [getattr(base, "base", None) for base in owner]
    assert owner[0].obj is owner[1].obj


def test_each_door_arrives_as_sent(client: Client, wire: Wire) -> None:
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    row = np.linspace(-1, 1, 3 * 4 * 4, dtype=np.float32).reshape(3, 4, 4)
    results = client.embed([b"file", pixels[:, ::-1], Prepared(row)], size=(4, 8), model="tiny/3")
    np.testing.assert_array_equal(results[1].patches, expected(pixels[:, ::-1].tobytes()))
    request = wire.requests[-1]
    assert (request.model, request.version) == ("tiny", "3")
    assert (request.size.height, request.size.width) == (4, 8)
    assert [item.WhichOneof("content") for item in request.items] == ["encoded", "pixels", "prepared"]
    assert list(request.items[1].pixels.shape) == [2, 5, 3]
    assert request.payloads[0] == pixels[:, ::-1].tobytes()
    assert request.payloads[1] == row.tobytes()


def test_dtype_is_asked_for_by_the_names_of_the_defaults(client: Client, wire: Wire) -> None:
    half = client.embed(b"x", dtype="float16")
    assert half.patches.dtype == np.float16
    client.embed(b"x", dtype="float16")
    # one GetModel for the names and one for the spec of the answer, and never again
    assert wire.paths.count("/vitral.v1.EmbeddingService/GetModel") == 2
    wide = client.embed(b"x", dtype="bfloat16", outputs=["extra", "patch_embeddings"])
    assert list(wide.outputs) == ["extra", "patch_embeddings"]
    assert wide.outputs["extra"].dtype == np.float32
    assert not wide.outputs["extra"].flags.writeable
    assert wire.requests[-1].outputs[0].dtype == BF16


def test_the_spec_is_fetched_once_for_each_fingerprint(client: Client, wire: Wire) -> None:
    for _ in range(3):
        client.embed(b"x")
    get_model = "/vitral.v1.EmbeddingService/GetModel"
    assert wire.paths.count(get_model) == 1
    wire.models["tiny"] = pb.ServedModel(spec=spec(fingerprint="e" * 64), version="4", state=2, name="tiny")
    assert client.embed(b"x").fingerprint == "e" * 64
    assert wire.paths.count(get_model) == 2


def test_a_model_changed_under_the_call_is_an_error(client: Client, wire: Wire) -> None:
    def other(request: pb.EmbedRequest, _: object) -> bytes:
        reply = pb.EmbedResponse.FromString(wire.embed(request))
        reply.fingerprint = "0" * 64
        return reply.SerializeToString()

    wire.on_embed = other
    with pytest.raises(vitral_client.FingerprintMismatchError, match="000000000000"):
        client.embed(b"x")


def test_bad_images_fail_alone_and_in_order(client: Client, tmp_path) -> None:
    missing = tmp_path / "missing.jpg"
    images = [b"good", missing, b"bad", tmp_path, b"fine"]
    with pytest.raises(vitral_client.ImageErrors, match="3 of 5 images failed") as failed:
        client.embed(images)
    assert sorted(failed.value.errors) == [1, 2, 3]
    assert [error.cause for error in failed.value.errors.values()] == [
        "unreadable",
        "truncated",
        "unreadable",
    ]
    results = client.embed(images, errors="return")
    assert [getattr(result, "index", None) for result in results] == [None, 1, 2, 3, None]
    np.testing.assert_array_equal(results[4].patches, expected(b"fine"))
    with pytest.raises(vitral_client.ImageError, match=r"missing\.jpg cannot be read: No such file"):
        client.embed(missing)
    with pytest.raises(vitral_client.ImageError, match="ends after 3 bytes"):
        client.embed(b"bad")
    assert isinstance(client.embed(b"bad", errors="return"), vitral_client.ImageError)


def test_nothing_is_sent_when_no_image_can_be_read(client: Client, wire: Wire, tmp_path) -> None:
    results = client.embed([tmp_path / "a", tmp_path / "b"], errors="return")
    assert [result.cause for result in results] == ["unreadable", "unreadable"]
    assert not wire.requests


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "invalid_argument", vitral_client.InvalidArgumentError),
        (grpc.StatusCode.INVALID_ARGUMENT, None, vitral_client.InvalidArgumentError),
        (grpc.StatusCode.NOT_FOUND, "model_not_found", vitral_client.ModelNotFoundError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_full", vitral_client.QueueFullError),
        (grpc.StatusCode.UNIMPLEMENTED, "unsupported", vitral_client.UnsupportedError),
        (grpc.StatusCode.INTERNAL, "internal", vitral_client.ServerError),
        (grpc.StatusCode.DATA_LOSS, None, vitral_client.ServerError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline", vitral_client.DeadlineError),
    ],
)
async def test_the_servers_error_is_the_clients_in_both(wire: Wire, code, reason, error) -> None:
    def fail(_: pb.EmbedRequest, context: grpc.ServicerContext) -> None:
        pairs = [("grpc-retry-pushback-ms", "-1")]
        context.set_trailing_metadata(tuple(pairs + ([("vitral-error", reason)] if reason else [])))
        context.abort(code, "the model has 3 of 4 things")

    wire.on_embed = fail
    with Client(wire.address) as client, pytest.raises(error, match="3 of 4") as raised:
        await asyncio.to_thread(client.embed, b"x")
    async with AsyncClient(wire.address) as client:
        with pytest.raises(error, match="3 of 4") as again:
            await client.embed(b"x")
    assert type(raised.value) is type(again.value) is error
    assert len(wire.requests) == 2


async def test_the_async_client_answers_like_the_other(wire: Wire) -> None:
    async with AsyncClient(wire.address) as client:
        one, several = await asyncio.gather(client.embed(b"photograph"), client.embed([b"a", b"b"]))
        np.testing.assert_array_equal(one.patches, expected(b"photograph"))
        assert len(several) == 2
        assert (await client.model("tiny")).version == "3"
        assert [served.name for served in await client.models()] == ["tiny"]
        assert await client.health() is Health.SERVING
        with pytest.raises(vitral_client.ImageErrors):
            await client.embed([b"a", b"bad"])
        assert (await client.embed(b"x", dtype="float16")).patches.dtype == np.float16
    with pytest.raises(vitral_client.UnavailableError, match="is closed"):
        await client.embed(b"x")


def test_models_model_and_health(client: Client, wire: Wire) -> None:
    wire.health["sick"] = 2
    assert [served.name for served in client.models()] == ["tiny"]
    assert client.model().spec.name == "tiny"
    assert client.model("tiny/3").version == "3"
    assert client.health() is Health.SERVING
    assert client.health("sick") is Health.NOT_SERVING
    with pytest.raises(vitral_client.ModelNotFoundError, match="no model 'none'"):
        client.health("none")
    with pytest.raises(vitral_client.ModelNotFoundError, match="there is tiny"):
        client.model("none")


def test_the_deadline_names_server_and_seconds(client: Client, wire: Wire) -> None:
    wire.on_embed = lambda *_: time.sleep(0.6)  # type: ignore[func-returns-value]
    with pytest.raises(vitral_client.DeadlineError, match=rf"{wire.address} within 0\.2 s"):
        client.embed(b"x", timeout=0.2)
    with pytest.raises(vitral_client.InvalidArgumentError, match="positive"):
        client.embed(b"x", timeout=0)


async def test_an_unreachable_server_fails_soon_and_is_named() -> None:
    address = f"127.0.0.1:{_free_port()}"
    start = time.monotonic()
    with Client(address) as client, pytest.raises(vitral_client.UnavailableError, match=address):
        await asyncio.to_thread(client.embed, b"x")
    async with AsyncClient(address) as client:
        with pytest.raises(vitral_client.UnavailableError, match=address):
            await client.health()
    assert time.monotonic() - start < 6


def test_unavailable_is_retried_also_for_a_large_image(client: Client, wire: Wire) -> None:
    def drain_once(request: pb.EmbedRequest, context: grpc.ServicerContext) -> None:
        if len(wire.requests) < 3:
            codes = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED]
            context.abort(codes[len(wire.requests) - 1], "draining")

    wire.on_embed = drain_once
    image = bytes(10_000_000)
    np.testing.assert_array_equal(client.embed(image).patches, expected(image))
    assert len(wire.requests) == 3


async def test_a_callers_own_cancel_is_not_retried(wire: Wire) -> None:
    entered, left = threading.Event(), threading.Event()

    def hang(_: pb.EmbedRequest, context: grpc.ServicerContext) -> None:
        context.add_callback(left.set)
        entered.set()
        left.wait(5)

    wire.on_embed = hang
    async with AsyncClient(wire.address) as client:
        task = asyncio.create_task(client.embed(b"x"))
        assert await asyncio.to_thread(entered.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(left.wait, 5)
        await asyncio.sleep(0.7)
    assert len(wire.requests) == 1


def test_close_ends_calls_under_way_and_later_ones(wire: Wire) -> None:
    entered = threading.Event()

    def hang(_: pb.EmbedRequest, context: grpc.ServicerContext) -> None:
        left = threading.Event()
        context.add_callback(left.set)
        entered.set()
        left.wait(5)

    wire.on_embed = hang
    client = Client(wire.address)
    threading.Thread(target=lambda: (entered.wait(5), client.close())).start()
    with pytest.raises(vitral_client.CancelledError):
        client.embed(b"x")
    assert len(wire.requests) == 1
    client.close()
    with pytest.raises(vitral_client.UnavailableError, match="closed"):
        client.models()


def test_oversize_is_refused_before_sending(client: Client, wire: Wire) -> None:
    size = 64 * 1024 * 1024
    with pytest.raises(
        vitral_client.TooLargeError, match=rf"{size} bytes, over the limit of {size} bytes|{size}"
    ):
        client.embed(bytes(size))
    half = np.zeros((1, size // 6 + 1, 3), np.uint8)
    with pytest.raises(vitral_client.TooLargeError, match=f"2 images takes at least {2 * half.nbytes} bytes"):
        client.embed([half, half, half])
    assert not wire.requests


def test_several_addresses_share_the_calls_and_stand_in_for_each_other(wire: Wire) -> None:
    with serve(Wire()) as other, Client(f"{wire.address}, {other.address}", timeout=10) as client:
        client.health()
        deadline = time.monotonic() + 5
        while not (wire.requests and other.requests) and time.monotonic() < deadline:
            client.embed(b"x")
        assert wire.requests
        assert other.requests
    dead = f"127.0.0.1:{_free_port()}"
    with Client(f"localhost:{wire.address.rpartition(':')[2]},{dead}", timeout=10) as client:
        for _ in range(10):
            client.embed(b"x")


@pytest.mark.parametrize("reply", [b"\xff\xff\xff", b"\x0a\xff"])
def test_a_reply_that_is_none_is_the_servers_fault(client: Client, wire: Wire, reply: bytes) -> None:
    wire.on_embed = lambda *_: reply
    with pytest.raises(vitral_client.ServerError):
        client.embed(b"x")


def test_a_reply_of_too_few_results_or_payloads_is_refused(client: Client, wire: Wire) -> None:
    def fewer(request: pb.EmbedRequest, _: object) -> bytes:
        reply = pb.EmbedResponse.FromString(wire.embed(request))
        del reply.results[0]
        return reply.SerializeToString()

    wire.on_embed = fewer
    with pytest.raises(vitral_client.ServerError, match="2 images were sent and 1 results came back"):
        client.embed([b"x", b"y"])

    def short(request: pb.EmbedRequest, _: object) -> bytes:
        reply = pb.EmbedResponse.FromString(wire.embed(request))
        reply.payloads[0] = reply.payloads[0][:-4]
        return reply.SerializeToString()

    wire.on_embed = short
    with pytest.raises(vitral_client.ServerError, match="takes 96 bytes, but 92 came"):
        client.embed(b"x")

    def pointless(request: pb.EmbedRequest, _: object) -> bytes:
        reply = pb.EmbedResponse.FromString(wire.embed(request))
        reply.results[0].outputs[0].payload = 7
        return reply.SerializeToString()

    wire.on_embed = pointless
    with pytest.raises(vitral_client.ServerError, match="payload 7 of 1"):
        client.embed(b"x")


def test_a_server_that_is_not_serving_gets_no_images_and_still_answers_questions(
    client: Client, wire: Wire
) -> None:
    wire.health[""] = 2
    assert client.health() is Health.NOT_SERVING
    assert [served.name for served in client.models()] == ["tiny"]
    with pytest.raises(vitral_client.UnavailableError, match=wire.address):
        client.embed(b"x")
    assert not wire.requests
