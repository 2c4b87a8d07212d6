"""Requests of the KServe protocol, right and wrong ones, that are asked of Triton and of vitral."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from asking import Step
from kserving import MODEL, message, noise
from tritonclient.grpc import service_pb2 as pb

Change = Callable[[Any], Any]
Steps = list[Step]

FINAL = "triton_enable_empty_final_response"


def shaped(*shape: int) -> Change:
    """Says another shape."""

    def change(request: Any) -> None:
        request.inputs[0].ClearField("shape")
        request.inputs[0].shape.extend(shape)

    return change


def typed(field: str, *values: Any, **fields: str) -> Change:
    """Spells values out, all ones where none are given."""

    def change(request: Any) -> None:
        del request.raw_input_contents[:]
        count = int(np.prod(request.inputs[0].shape))
        getattr(request.inputs[0].contents, field).extend(values or [1] * count)
        for name, value in fields.items():
            setattr(request.inputs[0], name, value)

    return change


def raw(data: bytes) -> Change:
    """Sends other bytes."""

    def change(request: Any) -> None:
        request.raw_input_contents[:] = [data]

    return change


def parameter(name: str, kind: str, value: Any, of: str = "") -> Change:
    """A parameter of the request, or of the first of its `inputs` or `outputs`."""
    return lambda request: setattr((getattr(request, of)[0] if of else request).parameters[name], kind, value)


def named(**fields: str) -> Change:
    """Says other things of the first input."""

    def change(request: Any) -> None:
        for name, value in fields.items():
            setattr(request.inputs[0], name, value)

    return change


def infer(change: Change = lambda _: None, *, rows: int = 1, **fields: Any) -> Step:
    """One inference, changed before it is sent."""
    request = message(noise(rows), **fields)
    change(request)
    return "ModelInfer", request


def stream(*steps: Step) -> Steps:
    """The same requests on one stream."""
    return [("ModelStreamInfer", [request for _, request in steps])]


def run(model: str) -> Step:
    """An inference of one row by any preset; of more, statistics would tell how a server shares them out."""
    pixels = model != "position-embedding-2d"
    batch = noise(1) if pixels else noise(1)[:, 0, :16, :16]
    request = message(batch, model_name=model)
    request.inputs[0].name = "pixel_values" if pixels else "patch_embeddings"
    return "ModelInfer", request


def _nan() -> bytes:
    batch = noise(1)
    batch[0, 0, 0, :2] = np.nan, np.inf
    return bytes(batch.data)


def _twice(request: Any) -> None:
    typed("fp32_contents")(request)
    request.inputs[0].contents.fp64_contents.append(1.0)


_ONE = {
    "one row": infer(),
    "most rows": infer(rows=32),
    "one too many": infer(rows=33),
    "a version": infer(id="a b", model_version="1"),
    "a version with zeros": infer(model_version="001"),
    "one output": infer(outputs=["patch_embeddings"]),
    "outputs in another order": infer(outputs=["patch_embeddings", "embeddings"]),
    "an output twice": infer(outputs=["embeddings", "embeddings"]),
    "an output without a name": infer(outputs=[""]),
    "NaN and Inf": infer(raw(_nan())),
    "nothing": ("ModelInfer", pb.ModelInferRequest()),
    "a model's name alone": ("ModelInfer", pb.ModelInferRequest(model_name=MODEL)),
    "typed": infer(typed("fp32_contents"), rows=2),
    "typed, too many": infer(typed("fp32_contents", *[1.0] * 3073)),
    "typed twice": infer(_twice),
    "typed, no such type": infer(typed("fp32_contents", 1.0, datatype="ZZ")),
    "typed strings": infer(typed("bytes_contents", b"a")),
    "one row says two": infer(shaped(2, 3, 32, 32)),
    "bytes behind the last": infer(raw(noise(1).tobytes() + bytes(4))),
    "more raw contents than inputs": infer(lambda request: request.raw_input_contents.append(b"abcd")),
    "no type": infer(named(datatype="")),
    "no name": infer(named(name="")),
    "a negative side": infer(shaped(1, 3, 32, -32)),
    "two negative sides": infer(shaped(1, -3, 32, -32)),
    "one more axis": infer(shaped(1, 3, 32, 32, 1)),
    "an enormous rank one": infer(shaped(3072)),
}
_PARAMETERS = {
    "timeout, ample": ("timeout", "int64_param", 10**7),
    "timeout, none": ("timeout", "int64_param", 0),
    "timeout, negative": ("timeout", "int64_param", -5),
    "timeout, of another type": ("timeout", "double_param", 1.0),
    "priority": ("priority", "uint64_param", 1),
    "sequence": ("sequence_id", "int64_param", 5),
    "sequence in words": ("sequence_id", "string_param", "five"),
    "sequence start": ("sequence_start", "bool_param", True),
    "sequence end": ("sequence_end", "bool_param", True),
    "of HTTP": ("binary_data_output", "bool_param", True),
    "of nobody": ("foo", "string_param", "bar"),
    "of nobody, a double": ("foo", "double_param", 1.5),
    "final": (FINAL, "bool_param", True),
    "final in words": (FINAL, "string_param", "x"),
    "reserved": ("triton_", "bool_param", True),
    "priority in words": ("priority", "string_param", "1"),
    "priority, signed": ("priority", "int64_param", 1),
    "sequence, true": ("sequence_id", "bool_param", True),
    "sequence start, a number": ("sequence_start", "int64_param", 1),
    "sequence end in words": ("sequence_end", "string_param", "x"),
    "of nobody, unsigned": ("foo", "uint64_param", 7),
    "region of a request": ("shared_memory_region", "string_param", "x"),
}
_MODELS = (
    ("other", ""),
    ("", ""),
    ("other", "3"),
    ("other", "x"),
    *((MODEL, version) for version in ("", "1", "01", "+1", "0", "-0", "7", "-1", "x", "9" * 30)),
    *((MODEL, version) for version in ("1x", " 1", "1 ", "1.5", "0x1", "-1x", "- 1", "\t1", "\u0661", "1e3")),
    *((MODEL, str(2**63 - less)) for less in (0, 1)),
)
_METHODS = ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")


def _asked(name: str, version: str) -> Steps:
    """All that can be asked of a model of this name; statistics last, and only of one that is not there."""
    steps = [(method, getattr(pb, f"{method}Request")(name=name, version=version)) for method in _METHODS]
    request = message(noise(1), model_name=name, model_version=version)
    there = name == MODEL or not name
    return [*(steps[:-1] if there else steps), ("ModelInfer", request)]


FAULTS: Mapping[str, Change] = {
    "version": lambda request: setattr(request, "model_version", "7"),
    "parameter": parameter("triton_x", "bool_param", True),
    "timeout": parameter("timeout", "string_param", "1"),
    "output": lambda request: request.outputs.add(name="zz"),
    "input": named(name="zz"),
    "type": named(datatype="INT32"),
    "shape": shaped(1, 3, 32, 31),
    "batch": shaped(33, 3, 32, 32),
    "bytes": raw(b"abcd"),
    "data": lambda request: request.ClearField("raw_input_contents"),
}
"""Of two the one that Triton finds first is told."""

UNORDERED = {("parameter", "timeout")}
"""It finds either first: a request's parameters are a hash map."""


def _pair(one: str, other: str) -> Step:
    return infer(lambda request: [FAULTS[one](request), FAULTS[other](request)])


def _final(step: Step) -> Step:
    parameter(FINAL, "bool_param", True)(step[1])
    return step


_AFTER = infer(id="after")
_STREAMS = {
    "empty": stream(),
    "three": stream(*(infer(id=number) for number in "abc")),
    "final": stream(_final(infer(id="a")), _final(infer(outputs=["zz"], id="b")), _AFTER),
    "output": stream(infer(id="a"), infer(outputs=["zz"], id="b"), _AFTER),
    "no id": stream(infer(outputs=["zz"]), _AFTER),
    "model": stream(infer(id="a", model_name="other"), _AFTER),
    "version": stream(infer(id="a", model_version="x"), _AFTER),
    "nothing": stream(("", pb.ModelInferRequest()), _AFTER),
    "bytes": stream(infer(raw(b"abcd"), id="a"), _AFTER),
    "batch": stream(infer(shaped(33, 3, 32, 32), id="a"), _AFTER),
    "timeout": stream(infer(FAULTS["timeout"], id="a"), _AFTER),
    "reserved": stream(infer(FAULTS["parameter"], id="a"), _AFTER),
    "final in words": stream(infer(parameter(FINAL, "string_param", "x"), id="a"), _AFTER),
}
_INDEX = {
    "all": pb.RepositoryIndexRequest(),
    "those that are ready": pb.RepositoryIndexRequest(ready=True),
    "another repository": pb.RepositoryIndexRequest(repository_name="x"),
}
_PAIRS = [pair for pair in combinations(FAULTS, 2) if pair not in UNORDERED]
QUESTIONS: Mapping[str, Steps] = (
    {name: [step] for name, step in _ONE.items()}
    | {f"parameter {name}": [infer(parameter(*told))] for name, told in _PARAMETERS.items()}
    | {f"model {name!r} {version!r}": _asked(name, version) for name, version in _MODELS}
    | {f"faults {one}, {other}": [_pair(one, other)] for one, other in _PAIRS}
    | {f"stream {name}": steps for name, steps in _STREAMS.items()}
    | {f"index {name}": [("RepositoryIndex", request)] for name, request in _INDEX.items()}
    | {"live": [("ServerLive", pb.ServerLiveRequest()), ("ServerReady", pb.ServerReadyRequest())]}
)
"""Situation to what is asked; the answers are equal."""
