"""What a server of the KServe protocol answers, in a form that can be held against another's answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf import text_format
from kserving import Floats, same
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

Step = tuple[str, Any]
"""A method and its request; a list of requests where the method takes a stream."""


@dataclass(frozen=True)
class Answer:
    """One reply, or the refusal.

    Attributes:
        code: of gRPC's status, by name.
        words: with which it was refused.
        reply: the message in text, without tensors and what is a server's own.
        tensors: the outputs that came raw, in order.
    """

    code: str
    words: str = ""
    reply: str = ""
    tensors: Sequence[Floats] = field(default=(), compare=False)

    def __str__(self) -> str:
        """All but the tensors."""
        return f"{self.code} {self.words} {self.reply}".rstrip()


class Asker:
    """Asks one server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def ask(self, steps: Sequence[Step]) -> list[Answer]:
        """The answers to these requests, one after the other; of a stream all, and how it ended."""
        return [answer for method, request in steps for answer in self._answers(method, request)]

    def _answers(self, method: str, request: Any) -> Iterator[Answer]:
        call = getattr(self._stub, method)
        try:
            if isinstance(request, list):
                for reply in call(iter(request), timeout=20):
                    yield _streamed(reply)
                yield Answer("OK")
            else:
                yield _answer(call(request, timeout=20))
        except grpc.RpcError as error:
            yield Answer(error.code().name, error.details() or "")


@contextmanager
def asker(address: str) -> Iterator[Asker]:
    """For the server at this address."""
    with grpc.insecure_channel(address) as channel:
        yield Asker(channel)


def codes(answers: Sequence[Answer]) -> list[str]:
    """Status codes by name."""
    return [answer.code for answer in answers]


def assert_alike(got: Sequence[Answer], want: Sequence[Answer]) -> None:
    """Fails where answers are not those of the other server; of tensors where more than rounding differs."""
    told = f"{list(map(str, got))}\n{list(map(str, want))}"
    assert len(got) == len(want), told
    found = [told for one, other in zip(got, want, strict=True) for told in _between(one, other)]
    assert not found, "\n".join(found)


def _between(got: Answer, want: Answer) -> Iterator[str]:
    if got != want:
        yield f"got  {got}\nwant {want}"
    elif not all(map(same, got.tensors, want.tensors)):
        gaps = [float(np.nanmax(abs(a - b))) for a, b in zip(got.tensors, want.tensors, strict=True)]
        yield f"tensors differ by {gaps}: {got}"


def _streamed(reply: Any) -> Answer:
    """An error's reply is its words and the request's id: what else stands there tells where it happened."""
    inner = reply.infer_response
    if reply.error_message:
        return Answer("OK", reply.error_message, f"id: {inner.id!r}")
    return _answer(inner)


def _answer(reply: Any) -> Answer:
    tensors = []
    if isinstance(reply, pb.ModelInferResponse):
        tensors = [_tensor(*pair) for pair in zip(reply.outputs, reply.raw_output_contents, strict=True)]
        del reply.raw_output_contents[:]
    elif isinstance(reply, pb.ModelConfigResponse):
        reply.config.ClearField("instance_group")  # how a server runs it
        reply.config.ClearField("runtime")
    elif isinstance(reply, pb.ModelStatisticsResponse):
        _without_times(reply)
    _without_image_models(reply)
    return Answer("OK", reply=text_format.MessageToString(reply, as_one_line=True), tensors=tensors)


def _tensor(item: Any, raw: bytes) -> Floats:
    """Its values; none where they went to shared memory, or are no floats."""
    if not raw or item.datatype != "FP32":
        return np.empty(0, np.float32)
    return np.frombuffer(raw, np.float32).reshape(item.shape)


def _without_image_models(reply: Any) -> None:
    """Models that take image files are vitral's own."""
    for name in ("models", "model_stats"):
        items: Any = getattr(reply, name, [])
        for item in [item for item in items if item.name.endswith("_image")]:
            items.remove(item)


def _without_times(reply: Any) -> None:
    for model in reply.model_stats:
        model.last_inference = min(1, model.last_inference)
        for stages in (model.inference_stats, *model.batch_stats):
            for _, duration in stages.ListFields():
                if hasattr(duration, "ns"):
                    duration.ns = 0
