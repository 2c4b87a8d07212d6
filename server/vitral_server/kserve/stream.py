"""ModelStreamInfer: each request answers for itself; its error is no error of the stream."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2 as pb

from vitral.errors import VitralError
from vitral_server.admission import Permit
from vitral_server.kserve.infer import Caller, Inference
from vitral_server.kserve.request import read
from vitral_server.log import explained, request_line
from vitral_server.stream import Reply
from vitral_server.telemetry import Telemetry


async def accept(
    inference: Inference, telemetry: Telemetry, context: Any, data: bytes, permit: Permit
) -> Reply:
    """Takes a request in."""
    return _answer(inference, telemetry, context, data, permit)


async def _answer(
    inference: Inference, telemetry: Telemetry, context: Any, data: bytes, permit: Permit
) -> bytes:
    caller = Caller(context.peer(), context.time_remaining(), streamed=True)
    try:
        with request_line("model_stream_infer", telemetry, context) as line:
            return await inference.answer(read(data), permit=permit, caller=caller, line=line)
    except Exception as error:
        return _failure(data, str(explained(error)))


def _failure(data: bytes, told: str) -> bytes:
    try:
        number = read(data).message.id
    except VitralError:
        number = ""
    reply = pb.ModelStreamInferResponse(error_message=told, infer_response=pb.ModelInferResponse(id=number))
    return bytes(reply.SerializeToString())
