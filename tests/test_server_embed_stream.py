"""EmbedStream over the wire: order, errors of items and of the stream, bounds, and its end."""

from __future__ import annotations

import io
import queue
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import photographs
import pytest
from PIL import Image
from serving import Running, running

from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import embedding_service_pb2_grpc as services
from vitral.v1 import tensor_pb2
from vitral_server.stream import IN_FLIGHT

CONFIG = pb.EmbedStreamRequest(config=pb.EmbedStreamConfig(model="tiny"))


def jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.open(photographs.COFFEE).convert("RGB").resize((width, height)).save(file, "JPEG")
    return file.getvalue()


SMALL, LARGE = jpeg(40, 30), jpeg(4000, 3000)


def item(number: int, data: bytes = SMALL) -> pb.EmbedStreamRequest:
    return pb.EmbedStreamRequest(id=number, item=pb.Item(encoded=data))


@pytest.fixture(scope="module")
def server(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(small_repo, log=tmp_path_factory.mktemp("stream") / "log") as started:
        yield started


@pytest.fixture
def stub(server: Running) -> Iterator[services.EmbeddingServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield services.EmbeddingServiceStub(channel)


def asked(
    stub: services.EmbeddingServiceStub, messages: Iterable[pb.EmbedStreamRequest]
) -> list[pb.EmbedStreamResponse]:
    return list(stub.EmbedStream(iter(messages), timeout=60))


@pytest.mark.parametrize("order", [pb.STREAM_ORDER_IN_ORDER, pb.STREAM_ORDER_UNSPECIFIED])
def test_in_order_or_as_they_finish(stub: services.EmbeddingServiceStub, order: Any) -> None:
    config = pb.EmbedStreamRequest(config=pb.EmbedStreamConfig(model="tiny", order=order))
    replies = asked(stub, [config, item(7, LARGE), *map(item, range(8, 20))])
    numbers = [reply.id for reply in replies]
    assert sorted(numbers) == list(range(7, 20))
    assert (numbers == sorted(numbers)) is (order == pb.STREAM_ORDER_IN_ORDER)
    assert all(not reply.result.HasField("error") for reply in replies)


def test_each_answer_says_what_embed_says(stub: services.EmbeddingServiceStub) -> None:
    chosen = pb.OutputRequest(
        name="patch_embeddings", view=pb.TOKEN_VIEW_PATCH_MEAN, dtype=tensor_pb2.DATA_TYPE_INT8
    )
    config = pb.EmbedStreamConfig(model="tiny", outputs=[chosen])
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=pixels.shape, payload=0)
    given = pb.EmbedStreamRequest(id=1, item=pb.Item(pixels=tensor), payloads=[pixels.tobytes()])
    replies = asked(stub, [pb.EmbedStreamRequest(config=config), item(0), given])
    (streamed,) = (reply for reply in replies if reply.id == 1)
    whole = stub.Embed(
        pb.EmbedRequest(
            model="tiny", items=[pb.Item(pixels=tensor)], outputs=[chosen], payloads=[pixels.tobytes()]
        )
    )
    assert streamed.result == whole.results[0]
    for field in ("model", "version", "fingerprint", "decode", "outputs", "payloads"):
        assert getattr(streamed, field) == getattr(whole, field)
    assert streamed.timings.batch_size >= 1


def test_an_items_error_is_its_own(stub: services.EmbeddingServiceStub) -> None:
    wrong = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[3, 2, 2], data=bytes(48))
    bad = [
        item(0, b"no picture"),
        pb.EmbedStreamRequest(id=1),
        pb.EmbedStreamRequest(id=2, item=pb.Item(prepared=wrong)),
        item(3),
        pb.EmbedStreamRequest(id=4, item=pb.Item(pixels=tensor_pb2.Tensor(shared={"region": "none"}))),
        item(5),
    ]
    replies = {reply.id: reply.result for reply in asked(stub, [CONFIG, *bad])}
    said = {number: result.error.reason for number, result in replies.items() if result.HasField("error")}
    assert said == {0: "format", 1: "empty", 2: "shape", 4: "region"}
    assert {replies[number].error.code for number in (0, 1, 2)} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    assert len(replies[3].outputs) == len(replies[5].outputs) == 1


@pytest.mark.parametrize(
    ("messages", "code", "told"),
    [
        ([], "INVALID_ARGUMENT", "ended before its configuration came"),
        ([item(0)], "INVALID_ARGUMENT", "the first message of a stream is its configuration"),
        ([CONFIG, item(0), CONFIG], "INVALID_ARGUMENT", "one configuration"),
        ([pb.EmbedStreamRequest(config={"model": "none"})], "NOT_FOUND", "none"),
        ([pb.EmbedStreamRequest(config={"expect_fingerprint": "0"})], "FAILED_PRECONDITION", "fingerprint"),
        ([pb.EmbedStreamRequest(config={"outputs": [{"name": "x"}]})], "INVALID_ARGUMENT", "x"),
        ([pb.EmbedStreamRequest(config={"size": {"height": 9, "width": 9}})], "INVALID_ARGUMENT", "9 x 9"),
    ],
)
def test_a_stream_that_cannot_be_answered_ends(
    stub: services.EmbeddingServiceStub, messages: list[pb.EmbedStreamRequest], code: str, told: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        asked(stub, messages)
    assert (caught.value.code().name, told in caught.value.details()) == (code, True), caught.value.details()


def test_a_malformed_message_ends_it(server: Running) -> None:
    with grpc.insecure_channel(server.address) as channel:
        method = channel.stream_stream("/vitral.v1.EmbeddingService/EmbedStream")
        with pytest.raises(grpc.RpcError, match="malformed EmbedStreamRequest of 4 bytes"):
            list(method(iter([CONFIG.SerializeToString(), b"\x12\x02\x08\x80"]), timeout=10))


def _line(server: Running, code: str) -> dict[str, Any]:
    """The log line of a stream that has ended so."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for line in server.lines("embed_stream"):
            if line["code"] == code:
                return line
        time.sleep(0.05)
    raise AssertionError(f"no stream ended with {code}: {server.log.read_text()[-2000:]}")


def test_a_caller_that_does_not_read_is_not_read_from(base_repo: Path, tmp_path: Path) -> None:
    """Replies of 602 kB: a few fill what the connection holds, and then the caller has to take them."""
    with running(base_repo, log=tmp_path / "log") as server, grpc.insecure_channel(server.address) as channel:
        stub = services.EmbeddingServiceStub(channel)
        config = pb.EmbedStreamRequest(config=pb.EmbedStreamConfig())
        call = stub.EmbedStream(iter([config, *map(item, range(40 * IN_FLIGHT))]), timeout=60)
        first = next(call)
        time.sleep(2)
        call.cancel()
        line = _line(server, "CANCELLED")
    assert len(first.payloads[0]) == 196 * 768 * 4
    assert IN_FLIGHT <= line["items"] < 2 * IN_FLIGHT
    assert "Traceback" not in server.log.read_text()


def test_a_full_queue_is_waited_for_and_who_left_gives_the_room_back(
    small_repo: Path, tmp_path: Path
) -> None:
    limits = ("--max-queue-images", "4", "--decode-threads", "1")
    with (
        running(small_repo, *limits, log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = services.EmbeddingServiceStub(channel)
        assert len(asked(stub, [CONFIG, *map(item, range(50))])) == 50
        call = stub.EmbedStream(iter([CONFIG, *(item(number, LARGE) for number in range(60))]), timeout=60)
        next(call)
        call.cancel()
        assert _line(server, "CANCELLED")["items"] < 60
        four = pb.EmbedRequest(items=[pb.Item(encoded=SMALL)] * 4)
        until = time.monotonic() + 10
        while True:  # what is being decoded keeps its room until it is done
            try:
                assert len(stub.Embed(four, timeout=10).results) == 4
            except grpc.RpcError:
                assert time.monotonic() < until
            else:
                break


def _numbers(call: Iterator[pb.EmbedStreamResponse]) -> tuple[list[int], Any]:
    """Numbers of the items answered, and how the stream ended."""
    numbers: list[int] = []
    try:
        numbers.extend(reply.id for reply in call)
    except grpc.RpcError as error:
        return numbers, error
    return numbers, None


def test_a_server_that_leaves_answers_what_it_took(small_repo: Path, tmp_path: Path) -> None:
    with (
        running(small_repo, log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        sending: queue.SimpleQueue[pb.EmbedStreamRequest | None] = queue.SimpleQueue()
        call = services.EmbeddingServiceStub(channel).EmbedStream(iter(sending.get, None), timeout=60)
        sending.put(CONFIG)
        sending.put(item(0))
        assert next(call).id == 0
        for number in range(1, 9):
            sending.put(item(number, LARGE))
        assert next(call).id > 0  # the others are in work, or about to be
        server.process.terminate()
        replies, error = _numbers(call)
        sending.put(None)
        assert server.process.wait(20) == 0
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "draining" in error.details()
        taken = server.lines("embed_stream")[0]["items"]
    assert len(replies) + 2 == taken
