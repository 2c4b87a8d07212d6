"""The framing of payloads against protobuf's own writer and reader."""

# ruff: noqa: S311  (seeded noise, no secrets)

from __future__ import annotations

import random

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from vitral import framing
from vitral.errors import InvalidArgumentError
from vitral.v1 import embedding_service_pb2 as pb

SIZES = [0, 1, 127, 128, 16_383, 16_384, 70_000]


def _fields(data: bytes) -> list[bytes]:
    """The top-level fields of a message whose tags take one byte, by a reader of its own."""
    fields, at = [], 0
    while at < len(data):
        start = at
        wire, at = data[at] & 7, at + 1
        number = shift = 0
        if wire in (0, 2):
            while True:
                number |= (data[at] & 0x7F) << shift
                shift, at = shift + 7, at + 1
                if data[at - 1] < 0x80:
                    break
        at += {0: 0, 1: 8, 2: number, 5: 4}[wire]
        fields.append(data[start:at])
    return fields


def _reply(rng: random.Random) -> pb.EmbedResponse:
    reply = pb.EmbedResponse(
        model="vit", version=str(rng.randrange(1, 400)), fingerprint="f" * rng.randrange(200)
    )
    reply.timings.run_ms = rng.random()
    for number in range(rng.randrange(4)):
        result = reply.results.add()
        result.grid.height = rng.randrange(1, 300)
        result.outputs.add(name="x" * rng.randrange(300), shape=[1, rng.randrange(1 << 40)], payload=number)
    reply.payloads.extend(rng.randbytes(rng.choice(SIZES)) for _ in range(rng.randrange(5)))
    return reply


def _without_payloads(reply: pb.EmbedResponse) -> pb.EmbedResponse:
    header = pb.EmbedResponse.FromString(reply.SerializeToString())
    del header.payloads[:]
    return header


@pytest.mark.parametrize("seed", range(30))
def test_join_writes_what_protobuf_writes(seed: int) -> None:
    reply = _reply(random.Random(seed))
    header = _without_payloads(reply).SerializeToString(deterministic=True)
    joined = framing.join(header, reply.payloads)
    assert joined == reply.SerializeToString(deterministic=True)
    assert len(joined) == framing.framed_bytes(len(header), map(len, reply.payloads))


@pytest.mark.parametrize("seed", range(30))
def test_split_reads_any_order_of_fields(seed: int) -> None:
    rng = random.Random(seed)
    reply = _reply(rng)
    fields = _fields(reply.SerializeToString())
    rng.shuffle(fields)
    message = b"".join(fields)
    truth = pb.EmbedResponse.FromString(message)
    header, payloads = framing.split(message)
    assert [bytes(payload) for payload in payloads] == list(truth.payloads)
    assert pb.EmbedResponse.FromString(header) == _without_payloads(truth)
    assert all(payload.obj is message and payload.readonly for payload in payloads)


def test_fields_nobody_knows_are_kept_in_the_header() -> None:
    unknown = b"\x80\x7d\x05" + b"\xa1\x06" + bytes(8) + b"\xad\x06" + bytes(4) + b"\xb2\x06\x02hi"
    header, payloads = framing.split(b"\x7a\x01x" + unknown + b"\x7a\x01y")
    assert header == unknown
    assert [bytes(payload) for payload in payloads] == [b"x", b"y"]


def test_arrays_and_views_are_joined_as_their_bytes() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    message = framing.join(b"", [array, memoryview(array), array.tobytes(), np.zeros((0, 3), np.uint8)])
    assert [bytes(payload) for payload in framing.split(message)[1]] == [array.tobytes()] * 3 + [b""]


def test_a_message_without_payloads_is_its_own_header() -> None:
    message = pb.EmbedResponse(model="vit").SerializeToString()
    assert framing.split(message) == (message, [])
    assert framing.split(b"") == (b"", [])
    assert framing.join(message, []) == message


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"\x7a", "unfinished varint"),
        (b"\x7a\x05abcd", "runs past the end"),
        (b"\x0a\xff\xff\xff\xff\x7f", "runs past the end"),
        (b"\x09\x00", "runs past the end"),
        (b"\x0d\x00", "runs past the end"),
        (b"\x7b", "wire type 3"),
        (b"\x7f\x00", "wire type 7"),
        (b"\xff" * 11, "unfinished varint"),
        (b"\x08" + b"\x80" * 11, "unfinished varint"),
    ],
)
def test_what_is_no_message_is_refused(message: bytes, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        framing.split(message)


@pytest.mark.parametrize("seed", range(20))
def test_cut_and_garbled_messages_never_do_worse_than_refuse(seed: int) -> None:
    rng = random.Random(seed)
    whole = _reply(rng).SerializeToString()
    for _ in range(50):
        garbled = bytearray(whole[: rng.randrange(len(whole) + 1)])
        for _ in range(rng.randrange(4) if garbled else 0):
            garbled[rng.randrange(len(garbled))] = rng.randrange(256)
        message = bytes(garbled)
        try:
            truth = pb.EmbedResponse.FromString(message)
        except DecodeError:
            truth = None
        try:
            header, payloads = framing.split(message)
            ours = pb.EmbedResponse.FromString(header)
        except (InvalidArgumentError, DecodeError):
            continue
        # What both can read, both read alike.
        if truth is not None:
            assert [bytes(payload) for payload in payloads] == list(truth.payloads)
            assert ours.SerializeToString() == _without_payloads(truth).SerializeToString()


@pytest.mark.parametrize("sizes", [[], [0], [127, 128, 70_000]])
def test_a_message_within_another_is_framed_without_a_copy_of_it(sizes: list[int]) -> None:
    rows = [np.arange(size, dtype=np.uint8) for size in sizes]
    inner = service_pb2.ModelInferResponse(model_name="vit", id="7")
    header = framing.nested(inner.SerializeToString(), sizes, within=2)
    payloads: list[list[framing.Buffer]] = [[row[: row.size // 2], row[row.size // 2 :]] for row in rows]
    inner.raw_output_contents.extend(row.tobytes() for row in rows)
    outer = service_pb2.ModelStreamInferResponse(infer_response=inner)
    assert framing.join(header, payloads, field=6) == outer.SerializeToString()


def test_payloads_of_another_field_are_split_off() -> None:
    request = service_pb2.ModelInferRequest(model_name="vit", raw_input_contents=[b"ab", b"", b"c"])
    request.parameters["timeout"].int64_param = 5
    header, payloads = framing.split(request.SerializeToString(), field=7)
    assert [bytes(payload) for payload in payloads] == [b"ab", b"", b"c"]
    del request.raw_input_contents[:]
    assert service_pb2.ModelInferRequest.FromString(header) == request
