"""The contract keeps its own rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from vitral import framing
from vitral.limits import MAX_FIELD_NUMBER, MAX_MESSAGE_BYTES, MAX_REPLY_BYTES
from vitral.v1 import embedding_service_pb2, embedding_service_pb2_grpc, model_pb2, tensor_pb2

FILES = [module.DESCRIPTOR for module in (tensor_pb2, model_pb2, embedding_service_pb2)]
SERVICE = embedding_service_pb2.DESCRIPTOR.services_by_name["EmbeddingService"]


def _messages() -> Iterator[Descriptor]:
    for file in FILES:
        waiting = list(file.message_types_by_name.values())
        while waiting:
            message = waiting.pop()
            waiting += message.nested_types
            yield message


def test_no_tag_takes_more_than_one_byte() -> None:
    high = [field.full_name for m in _messages() for field in m.fields if field.number > MAX_FIELD_NUMBER]
    assert high == []
    assert len(list(_messages())) > 30


def test_payloads_are_field_15_and_raw_wherever_they_are() -> None:
    payloads = [field for m in _messages() for field in m.fields if field.name == "payloads"]
    assert {field.containing_type.name for field in payloads} == {
        "EmbedRequest",
        "EmbedResponse",
        "EmbedStreamRequest",
        "EmbedStreamResponse",
    }
    for field in payloads:
        assert field.number == framing.PAYLOAD_FIELD
        assert field.type == FieldDescriptor.TYPE_BYTES
    others = [f for m in _messages() for f in m.fields if f.number == 15 and f.name != "payloads"]
    assert others == []


@pytest.mark.parametrize(
    ("method", "request_type", "reply_type", "streams"),
    [
        ("Embed", "EmbedRequest", "EmbedResponse", False),
        ("EmbedStream", "EmbedStreamRequest", "EmbedStreamResponse", True),
        ("ListModels", "ListModelsRequest", "ListModelsResponse", False),
        ("GetModel", "GetModelRequest", "GetModelResponse", False),
        ("GetServerInfo", "GetServerInfoRequest", "GetServerInfoResponse", False),
        ("RegisterRegion", "RegisterRegionRequest", "RegisterRegionResponse", False),
        ("UnregisterRegion", "UnregisterRegionRequest", "UnregisterRegionResponse", False),
    ],
)
def test_the_service_is_whole(method: str, request_type: str, reply_type: str, streams: bool) -> None:
    found = SERVICE.methods_by_name[method]
    assert (found.input_type.name, found.output_type.name) == (request_type, reply_type)
    assert found.client_streaming is found.server_streaming is streams
    assert hasattr(embedding_service_pb2_grpc.EmbeddingServiceServicer, method)
    assert len(SERVICE.methods) == 7


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (
            "EmbedRequest",
            "model version items outputs size reply max_reply_bytes expect_fingerprint payloads",
        ),
        ("Item", "encoded pixels prepared"),
        ("OutputRequest", "name view patches rect l2_normalize dtype"),
        ("EmbedResponse", "model version results timings fingerprint outputs payloads"),
        ("ItemResult", "error grid outputs"),
        ("ItemError", "code reason message"),
        ("ServedModel", "spec version state provider device replay reason"),
    ],
)
def test_the_messages_say_what_was_decided(message: str, fields: str) -> None:
    found = embedding_service_pb2.DESCRIPTOR.message_types_by_name[message]
    assert set(fields.split()) <= set(found.fields_by_name)


def test_the_three_doors_and_the_places_of_bytes_exclude_each_other() -> None:
    (content,) = embedding_service_pb2.Item.DESCRIPTOR.oneofs
    assert [field.name for field in content.fields] == ["encoded", "pixels", "prepared"]
    (location,) = tensor_pb2.Tensor.DESCRIPTOR.oneofs
    assert [field.name for field in location.fields] == ["data", "payload", "shared"]


def test_sizes_of_the_manifest_are_numbers_in_json() -> None:
    wide = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT64}
    manifest = model_pb2.DESCRIPTOR.message_types_by_name.values()
    assert [field.full_name for m in manifest for field in m.fields if field.type in wide] == []


def test_enums_start_at_a_value_that_says_nothing() -> None:
    for file in FILES:
        for enum in file.enum_types_by_name.values():
            assert enum.values_by_number[0].name.endswith("_UNSPECIFIED")


def test_limits_fit_each_other() -> None:
    assert MAX_MESSAGE_BYTES == 64 * 1024 * 1024
    assert framing.framed_bytes(0, [MAX_REPLY_BYTES]) < MAX_MESSAGE_BYTES
