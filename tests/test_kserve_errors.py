"""What ModelInfer refuses: Triton's status codes, and its words where it has any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kserving
import pytest
from kserving import MODEL, message, noise
from serving import Running
from tritonclient.grpc import service_pb2 as pb

BATCH = noise(2)
NOTE = (
    " NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended "
    "to each input shape. If you want to specify the full shape including the batch dim in your input dims "
    "config, try setting max_batch_size to zero. See the model configuration docs for more info on "
    "max_batch_size."
)
ID = "[request id: <id_unknown>] "
OF = "input 'pixel_values' for model 'vit-embedding'"
EXPECTS = "model 'vit-embedding' expects 'FP32'"
EXPLICIT = f"unexpected explicit tensor data for input tensor {OF[6:]} of type"
MISSING = "missing required input(s) {}. Please provide all required input(s)."


@pytest.fixture(scope="module")
def stub(kserve_server: Running) -> Iterator[Any]:
    with kserving.stub(kserve_server.address) as made:
        yield made


def _shaped(*shape: int) -> Callable[[Any], None]:
    def change(request: Any) -> None:
        request.inputs[0].ClearField("shape")
        request.inputs[0].shape.extend(shape)

    return change


def _typed(field: str, *values: Any, datatype: str = "FP32") -> Callable[[Any], None]:
    def change(request: Any) -> None:
        del request.raw_input_contents[:]
        request.inputs[0].datatype = datatype
        request.inputs[0].contents.SetInParent()
        getattr(request.inputs[0].contents, field).extend(values)

    return change


def _raw(data: bytes) -> Callable[[Any], None]:
    def change(request: Any) -> None:
        request.raw_input_contents[0] = data

    return change


def _parameter(name: str, kind: str, value: Any) -> Callable[[Any], None]:
    return lambda request: setattr(request.parameters[name], kind, value)


def _named(**fields: str) -> Callable[[Any], None]:
    def change(request: Any) -> None:
        for name, value in fields.items():
            setattr(request if hasattr(request, name) else request.inputs[0], name, value)

    return change


def _another(request: Any) -> None:
    request.inputs.add(name="b", datatype="FP32", shape=[1])
    request.raw_input_contents.append(bytes(4))


def _twice(request: Any) -> None:
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


def _both(request: Any) -> None:
    request.inputs[0].contents.fp32_contents.append(1)


def _typed_twice(request: Any) -> None:
    _typed("fp32_contents", 1.0)(request)
    request.inputs[0].contents.fp64_contents.append(1.0)


def _class(request: Any) -> None:
    request.outputs.add(name="embeddings").parameters["classification"].int64_param = 2


CASES: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "model": (_named(model_name="other"), "NOT_FOUND", "Request for unknown model: 'other' is not found"),
    "no model": (_named(model_name=""), "NOT_FOUND", "Request for unknown model: '' is not found"),
    "version": (
        _named(model_version="7"),
        "NOT_FOUND",
        "Request for unknown model: 'vit-embedding' version 7 is not found",
    ),
    "no version": (
        _named(model_version="x"),
        "INVALID_ARGUMENT",
        "failed to get model version from specified version string 'x' (details: stol), version should be an "
        "integral value > 0",
    ),
    "output": (
        lambda request: request.outputs.add(name="zz"),
        "INVALID_ARGUMENT",
        "unexpected inference output 'zz' for model 'vit-embedding'",
    ),
    "input": (
        lambda request: setattr(request.inputs[0], "name", "zz"),
        "INVALID_ARGUMENT",
        "unexpected inference input 'zz' for model 'vit-embedding'",
    ),
    "no input": (
        lambda request: request.ClearField("inputs"),
        "INVALID_ARGUMENT",
        f"{ID}expected 1 inputs but got 0 inputs for model 'vit-embedding'. Got input(s) [], but "
        + MISSING.format("['pixel_values']"),
    ),
    "two inputs": (
        _another,
        "INVALID_ARGUMENT",
        f"{ID}expected 1 inputs but got 2 inputs for model 'vit-embedding'. "
        "Got input(s) ['b','pixel_values'], but " + MISSING.format("[]"),
    ),
    "one input twice": (_twice, "INVALID_ARGUMENT", f"{ID}input 'pixel_values' already exists in request"),
    "type": (
        _named(datatype="INT32"),
        "INVALID_ARGUMENT",
        f"{ID}inference input 'pixel_values' data-type is 'INT32', but {EXPECTS}",
    ),
    "no type": (
        _named(datatype="ZZ"),
        "INVALID_ARGUMENT",
        f"{ID}inference input 'pixel_values' data-type is '<invalid>', but {EXPECTS}",
    ),
    "shape": (
        _shaped(2, 3, 32, 31),
        "INVALID_ARGUMENT",
        f"{ID}unexpected shape for {OF}. Expected [-1,3,32,32], got [2,3,32,31].{NOTE}",
    ),
    "rank": (
        _shaped(3, 32, 32),
        "INVALID_ARGUMENT",
        f"{ID}unexpected shape for {OF}. Expected [-1,3,32,32], got [3,32,32].{NOTE}",
    ),
    "no shape": (
        _shaped(),
        "INVALID_ARGUMENT",
        f"{ID}input 'pixel_values' has no shape but model requires batch dimension for 'vit-embedding'",
    ),
    "no rows": (_shaped(0, 3, 32, 32), "INVALID_ARGUMENT", "At least one row is needed"),
    "less than none": (_shaped(-1, 3, 32, 32), "INVALID_ARGUMENT", "At least one row is needed"),
    "batch": (
        _shaped(33, 3, 32, 32),
        "INVALID_ARGUMENT",
        f"{ID}inference request batch-size must be <= 32 for 'vit-embedding'",
    ),
    "bytes": (
        _raw(b"abcd"),
        "INVALID_ARGUMENT",
        f"{ID}input byte size mismatch for {OF}. Expected 24576, got 4",
    ),
    "no bytes": (_raw(b""), "INVALID_ARGUMENT", "Expected 24576, got 0"),
    "no data": (
        lambda request: request.ClearField("raw_input_contents"),
        "INVALID_ARGUMENT",
        f"unable to find data for input tensor {OF[6:]} in request.",
    ),
    "typed, too few": (_typed("fp32_contents", 1.0), "INVALID_ARGUMENT", "Expected 24576, got 4"),
    "typed, of another type": (
        _typed("int_contents", 1),
        "INVALID_ARGUMENT",
        f"{EXPLICIT} 'INT32', expected datatype 'FP32'",
    ),
    "typed, of no type": (
        _typed("fp32_contents", 1.0, datatype="ZZ"),
        "INVALID_ARGUMENT",
        f"{EXPLICIT} 'FP32', expected datatype '<invalid>'",
    ),
    "typed twice": (
        _typed_twice,
        "INVALID_ARGUMENT",
        f"unexpected explicit tensor data for input tensor {OF[6:]}, binary data was already supplied.",
    ),
    "typed, without any": (_typed("fp32_contents"), "INVALID_ARGUMENT", "Expected 24576, got 0"),
    "typed half": (
        _typed("fp32_contents", 1.0, datatype="FP16"),
        "INVALID_ARGUMENT",
        f"{EXPLICIT} 'FP32', expected datatype 'FP16'",
    ),
    "typed and raw": (
        _both,
        "INVALID_ARGUMENT",
        f"contents field must not be specified when using raw_input_contents for {OF[6:]}",
    ),
    "timeout": (
        _parameter("timeout", "string_param", "1"),
        "INVALID_ARGUMENT",
        "invalid value type for 'timeout' parameter, expected int64_param.",
    ),
    "final response": (
        _parameter("triton_enable_empty_final_response", "int64_param", 1),
        "INVALID_ARGUMENT",
        "invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param.",
    ),
    "type of a parameter that is ignored": (
        _parameter("priority", "string_param", "1"),
        "INVALID_ARGUMENT",
        "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
    ),
    "type of a parameter that nobody knows": (
        _parameter("other", "uint64_param", 1),
        "INVALID_ARGUMENT",
        "invalid value type for 'other' parameter, expected int64_param, bool_param, or string_param.",
    ),
    "reserved": (
        _parameter("triton_x", "bool_param", True),
        "INVALID_ARGUMENT",
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys "
        "starting with 'triton_' are allowed: triton_enable_empty_final_response",
    ),
    "classification": (_class, "UNIMPLEMENTED", "output 'embeddings' has no classes"),
}


@pytest.mark.parametrize("case", CASES)
def test_requests_that_are_refused(stub: Any, case: str) -> None:
    change, code, words = CASES[case]
    request = message(BATCH)
    change(request)
    got, told = kserving.refusal(stub.ModelInfer, request)
    assert got == code, told
    assert told == words or words.startswith(("At least", "Expected", "output")), told
    assert words in told


def test_the_callers_id_stands_in_front(stub: Any) -> None:
    request = message(BATCH, id="a7")
    request.raw_input_contents[0] = b"abcd"
    assert kserving.refusal(stub.ModelInfer, request)[1].startswith("[request id: a7] input byte size")


@pytest.mark.parametrize(
    "pair",
    [
        ("version", "reserved"),
        ("timeout", "one input twice"),
        ("no data", "classification"),
        ("classification", "output"),
        ("output", "input"),
        ("input", "batch"),
        ("batch", "type"),
        ("type", "shape"),
        ("shape", "bytes"),
    ],
)
def test_of_two_faults_the_same_is_named_first(stub: Any, pair: tuple[str, str]) -> None:
    request = message(BATCH)
    for case in reversed(pair):
        CASES[case][0](request)
    _, told = kserving.refusal(stub.ModelInfer, request)
    assert CASES[pair[0]][2] in told


@pytest.mark.parametrize(
    ("data", "shape", "words"),
    [
        (
            b"\x01\x00",
            [1],
            "incomplete string length indicator for inference input 'image', expecting 4 bytes",
        ),
        (b"\x05\x00\x00\x00ab", [1], "expecting string of length 5 but only 2 bytes available"),
        (b"\x01\x00\x00\x00a", [2], "unexpected number of string elements 1 for inference input 'image'"),
        (b"\x00\x00\x00\x00" * 3, [2], "unexpected number of string elements more than 2"),
        (b"\x00\x00\x00\x00", [1, 1], "Expected [-1], got [1,1]"),
        (b"", [0], "At least one row is needed"),
        (b"\x00\x00\x00\x00" * 257, [257], "has 257 images; the limit is 256"),
        (b"\x00\x00\x00\x00", [1], "image 0 of 1: image is empty"),
    ],
)
def test_image_requests_that_are_refused(stub: Any, data: bytes, shape: list[int], words: str) -> None:
    request = pb.ModelInferRequest(model_name=f"{MODEL}_image", raw_input_contents=[data])
    request.inputs.add(name="image", datatype="BYTES", shape=shape)
    got, told = kserving.refusal(stub.ModelInfer, request)
    assert (got, words in told) == ("INVALID_ARGUMENT", True), told


def test_bytes_that_are_no_message(kserve_server: Running) -> None:
    with kserving.grpc.insecure_channel(kserve_server.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for data in (b"\xff", b"\x0a\x02\xff\xff", b"\x3a\x00" * 2000):
            assert kserving.refusal(call, data)[0] == "INVALID_ARGUMENT"
