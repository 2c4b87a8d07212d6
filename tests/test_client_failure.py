"""Every way a call can end badly, over real gRPC."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from client_wire import Wire, expected, serve

import vitral_client
from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import AsyncClient, Client, Health


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


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, vitral_client.UnsupportedError),
        (grpc.StatusCode.UNKNOWN, vitral_client.ServerError),
    ],
)
def test_words_that_are_not_the_servers_own_come_with_its_address(
    client: Client, wire: Wire, code, error
) -> None:
    # What gRPC makes of a proxy, or of another peer that speaks HTTP/2.
    details = "Received http2 header with status: 404"
    wire.on_embed = lambda _, context: context.abort(code, details)
    with pytest.raises(error, match=f"the call to {wire.address} failed: {details}"):
        client.embed(b"x")


def test_a_peer_that_speaks_another_protocol_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as peer:
        address = f"127.0.0.1:{peer.getsockname()[1]}"

        def answer() -> None:
            connection, _ = peer.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with Client(address, timeout=5) as client, pytest.raises(vitral_client.VitralError, match=address):
            client.models()


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
