"""What the server refuses, with which status, and in which words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import photographs
import pytest
from serving import Running, running

from vitral import framing
from vitral.errors import PUSHBACK_KEY, REASON_KEY
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral.v1.embedding_service_pb2_grpc import EmbeddingServiceStub

JPEG = photographs.ROCKET.read_bytes()


@pytest.fixture(scope="module")
def server(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running(small_repo, "--max-items", "8", log=log) as started:
        yield started


@pytest.fixture(scope="module")
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> EmbeddingServiceStub:
    """The generated classes: any gRPC client may speak to the server."""
    return EmbeddingServiceStub(channel)


def _item(**content: object) -> pb.Item:
    return pb.Item(**content)  # type: ignore[arg-type]


def _refused(stub: EmbeddingServiceStub, request: pb.EmbedRequest) -> tuple[str, str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Embed(request, timeout=10)
    trailing = {key: str(value) for key, value in caught.value.trailing_metadata() or ()}
    return caught.value.code().name, caught.value.details() or "", trailing


GOOD = [_item(encoded=JPEG)]
REFUSED = {
    "unknown model": ({"model": "other"}, "NOT_FOUND", "no model 'other'; served are tiny"),
    "unknown version": ({"version": "9"}, "NOT_FOUND", "no version '9' here; served are 1"),
    "no items": ({"items": []}, "INVALID_ARGUMENT", "the request has no items"),
    "too many items": ({"items": GOOD * 9}, "INVALID_ARGUMENT", "has 9 images; the limit is 8"),
    "unknown output": (
        {"outputs": [pb.OutputRequest(name="tokens")]},
        "INVALID_ARGUMENT",
        "no output 'tokens'; it has patch_embeddings",
    ),
    "size": (
        {"size": tensor_pb2.ImageSize(height=64, width=32)},
        "INVALID_ARGUMENT",
        "size 64 x 32 was asked for, but model tiny has the static size 32 x 32",
    ),
    "size smaller than a patch": (
        {"size": tensor_pb2.ImageSize(height=4, width=3)},
        "INVALID_ARGUMENT",
        "size 4 x 3 was asked for, but model tiny has the static size 32 x 32",
    ),
    "fingerprint": ({"expect_fingerprint": "0" * 64}, "FAILED_PRECONDITION", "has fingerprint"),
    "reply too large": (
        {"max_reply_bytes": 1023},
        "RESOURCE_EXHAUSTED",
        "the reply to 1 images takes 1024 bytes; the limit is 1023",
    ),
    "view": (
        {"outputs": [pb.OutputRequest(name="patch_embeddings", view=pb.TOKEN_VIEW_CLS)]},
        "INVALID_ARGUMENT",
        "output patch_embeddings of model tiny has no CLS token",
    ),
    "patches": (
        {"outputs": [pb.OutputRequest(name="patch_embeddings", patches=[1, 16])]},
        "INVALID_ARGUMENT",
        "patch 16 is asked for; output patch_embeddings of model tiny has 16",
    ),
    "rect": (
        {"outputs": [pb.OutputRequest(name="patch_embeddings", rect=pb.PatchRect())]},
        "INVALID_ARGUMENT",
        "a rectangle of 0 x 0 patches",
    ),
    "uint8": (
        {"outputs": [pb.OutputRequest(name="patch_embeddings", dtype=tensor_pb2.DATA_TYPE_UINT8)]},
        "INVALID_ARGUMENT",
        "output patch_embeddings: dtype uint8 is not served; float32, float16, bfloat16, int8 are",
    ),
    "shared reply": (
        {"reply": tensor_pb2.SharedRange(region="r")},
        "FAILED_PRECONDITION",
        "no region 'r' is registered",
    ),
    "shared tensor": (
        {"items": [_item(pixels=tensor_pb2.Tensor(shared=tensor_pb2.SharedRange(region="r")))]},
        "FAILED_PRECONDITION",
        "no region 'r' is registered",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_requests_that_are_refused(stub: EmbeddingServiceStub, case: str) -> None:
    changes, code, words = REFUSED[case]
    request = pb.EmbedRequest(**({"items": GOOD} | changes))  # type: ignore[arg-type]
    got, details, trailing = _refused(stub, request)
    assert (got, words in details) == (code, True), details
    assert trailing[REASON_KEY]
    assert trailing.get(PUSHBACK_KEY) == ("-1" if code == "RESOURCE_EXHAUSTED" else None)


def _pixels(array: np.ndarray, **changes: object) -> tensor_pb2.Tensor:
    values: dict[str, object] = {
        "dtype": tensor_pb2.DATA_TYPE_UINT8,
        "shape": array.shape,
        "data": array.tobytes(),
    }
    return tensor_pb2.Tensor(**(values | changes))  # type: ignore[arg-type]


RAMP = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
ROW = np.zeros((3, 32, 32), np.float32)
FLOAT = tensor_pb2.DATA_TYPE_FLOAT32
BAD_ITEMS = {
    "nothing": (_item(), "empty", "no content"),
    "empty": (_item(encoded=b""), "empty", "0 bytes"),
    "text": (_item(encoded=b"no image"), "format", "8 bytes"),
    "truncated": (_item(encoded=JPEG[:5000]), "corrupt", "JPEG of 5000 bytes"),
    "rank": (_item(pixels=_pixels(RAMP, shape=[4, 12])), "shape", "4 x 12 uint8; H x W x 3 uint8 is needed"),
    "channels": (_item(pixels=_pixels(RAMP, shape=[3, 4, 4])), "shape", "3 x 4 x 4"),
    "bytes": (_item(pixels=_pixels(RAMP, shape=[4, 5, 3])), "tensor", "takes 60 bytes, but 48 came"),
    "negative": (_item(pixels=_pixels(RAMP, shape=[-4, -4, 3])), "tensor", "negative extent"),
    "dtype": (_item(pixels=_pixels(RAMP, dtype=99)), "tensor", "unknown dtype 99"),
    "no location": (_item(pixels=tensor_pb2.Tensor(dtype=4, shape=[1])), "tensor", "names no bytes"),
    "payload": (_item(pixels=tensor_pb2.Tensor(dtype=4, shape=[1], payload=3)), "tensor", "names payload 3"),
    "prepared shape": (
        _item(prepared=_pixels(ROW[:, :8], dtype=FLOAT)),
        "shape",
        "3 x 8 x 32 float32; 3 x 32 x 32 float32 is needed",
    ),
    "prepared rank": (
        _item(prepared=_pixels(ROW[0], dtype=FLOAT)),
        "shape",
        "32 x 32 float32; 3 x 32 x 32 float32 is needed",
    ),
    "prepared smaller than a patch": (
        _item(prepared=_pixels(ROW[:, :4, :4], dtype=FLOAT)),
        "shape",
        "3 x 4 x 4 float32; 3 x 32 x 32 float32 is needed",
    ),
    "prepared dtype": (
        _item(prepared=_pixels(ROW.astype(np.float16), dtype=tensor_pb2.DATA_TYPE_FLOAT16)),
        "shape",
        "3 x 32 x 32 float16; 3 x 32 x 32 float32 is needed",
    ),
    "prepared bytes": (
        _item(prepared=_pixels(ROW.astype(np.float16), dtype=FLOAT)),
        "tensor",
        "takes 12288 bytes, but 6144 came",
    ),
    "pixels dtype": (
        _item(pixels=_pixels(RAMP.astype(np.float32), dtype=FLOAT)),
        "shape",
        "4 x 4 x 3 float32; H x W x 3 uint8 is needed",
    ),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_bad_items_fail_alone(stub: EmbeddingServiceStub, case: str) -> None:
    bad, cause, words = BAD_ITEMS[case]
    reply = stub.Embed(pb.EmbedRequest(items=[*GOOD, bad, *GOOD]), timeout=10)
    assert [result.HasField("error") for result in reply.results] == [False, True, False]
    error = reply.results[1].error
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], cause), error
    assert words in error.message
    first, last = (result.outputs[0].payload for result in (reply.results[0], reply.results[2]))
    assert reply.payloads[first] == reply.payloads[last]


def test_values_that_are_not_finite_are_counted(stub: EmbeddingServiceStub) -> None:
    row = ROW.copy()
    row[0, 0, :5] = np.nan, np.inf, -np.inf, np.nan, np.nan
    reply = stub.Embed(pb.EmbedRequest(items=[_item(prepared=_pixels(row, dtype=FLOAT))]), timeout=10)
    assert reply.results[0].error.reason == "not_finite"
    assert "5 of 3072 values NaN or Inf" in reply.results[0].error.message


def test_all_items_bad_is_still_an_answer(stub: EmbeddingServiceStub) -> None:
    reply = stub.Embed(pb.EmbedRequest(items=[_item(encoded=b"x"), _item()]), timeout=10)
    assert all(result.HasField("error") for result in reply.results)
    assert not reply.payloads


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x7a\xff", b"\x1b", b"\x1a\x05ab", b"\x0a\x02\xff\xfe"])
def test_malformed_messages_are_refused(channel: grpc.Channel, data: bytes) -> None:
    call = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")
    with pytest.raises(grpc.RpcError) as caught:
        call(data, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_payloads_may_stand_anywhere(channel: grpc.Channel) -> None:
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=RAMP.shape, payload=0)
    header = pb.EmbedRequest(items=[_item(pixels=tensor)]).SerializeToString()
    call = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")
    last = framing.join(header, [RAMP])
    first = last[len(header) :] + header
    replies = [pb.EmbedResponse.FromString(call(data, timeout=10)) for data in (last, first)]
    assert replies[0].payloads == replies[1].payloads
    assert len(replies[0].payloads[0]) == 1024


def test_models_and_server_describe_themselves(stub: EmbeddingServiceStub) -> None:
    (listed,) = stub.ListModels(pb.ListModelsRequest(), timeout=10).models
    one = stub.GetModel(pb.GetModelRequest(), timeout=10).model
    assert listed == one
    assert (one.name, one.version, one.provider, one.device) == ("tiny", "1", "CPUExecutionProvider", "cpu")
    assert one.state == pb.MODEL_STATE_READY
    assert one.replay.agreed
    assert one.replay.pixels_equal
    assert one.spec.source.weights_note == "random weights, seed 0"
    info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
    assert info.limits.max_items == 8
    assert info.limits.max_message_bytes == 64 << 20
    assert all(value for _, value in info.limits.ListFields())
    assert len(info.limits.ListFields()) == len(info.limits.DESCRIPTOR.fields)
    assert "CPUExecutionProvider" in info.providers
    assert list(info.formats) == ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]


def test_the_fingerprint_is_in_every_reply(stub: EmbeddingServiceStub) -> None:
    spec = stub.GetModel(pb.GetModelRequest(), timeout=10).model.spec
    request = pb.EmbedRequest(items=GOOD, expect_fingerprint=spec.fingerprint)
    assert stub.Embed(request, timeout=10).fingerprint == spec.fingerprint
    assert len(spec.fingerprint) == 64


def test_oversize_messages_are_refused(stub: EmbeddingServiceStub) -> None:
    code, said, _ = _refused(stub, pb.EmbedRequest(items=[_item(encoded=bytes(65 << 20))]))
    assert code == "RESOURCE_EXHAUSTED"
    assert re.search(rf"\(6815\d{{4}} vs\. {64 << 20}\)", said), said
