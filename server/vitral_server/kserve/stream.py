"""ModelStreamInfer: requests of one stream run beside each other, their replies keep the order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from tritonclient.grpc import service_pb2 as pb

from vitral.errors import UnavailableError, VitralError
from vitral_server.admission import Admission
from vitral_server.kserve.infer import Caller, Inference
from vitral_server.kserve.request import read
from vitral_server.log import request_line

log = logging.getLogger(__name__)

IN_FLIGHT = 64
"""Most requests of one stream in work; the next is read when one is answered."""


class Stream:
    """One stream."""

    def __init__(self, inference: Inference, admission: Admission, context: Any) -> None:
        self._inference, self._admission, self._context = inference, admission, context
        self._room = asyncio.Semaphore(IN_FLIGHT)

    async def serve(self, requests: AsyncIterator[bytes]) -> None:
        """Answers until the caller has sent all; one request's error is its own.

        Raises:
            UnavailableError: the server drains. What had come was answered.
        """
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(requests, group))
            draining = group.create_task(self._admission.draining.wait())
            await asyncio.wait({reading, draining}, return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            reading.cancel()
        if self._admission.draining.is_set():
            raise UnavailableError("the server is draining and takes no new requests")

    async def _read(self, requests: AsyncIterator[bytes], group: asyncio.TaskGroup) -> None:
        before: asyncio.Task[None] | None = None
        async for data in requests:
            await self._room.acquire()
            before = group.create_task(self._answer(data, before))

    async def _answer(self, data: bytes, before: asyncio.Task[None] | None) -> None:
        """Answers one request, after the one before it."""
        permit = None
        try:
            try:
                permit = self._admission.arrive()
                reply = await self._reply(data, permit)
            except VitralError as error:
                reply = _failure(data, str(error))
            except Exception:
                number = uuid4().hex[:12]
                log.exception("internal error", extra={"error_id": number})
                told = f"internal error; the server's log explains it under id {number}"
                reply = _failure(data, told)
            del data  # it would wait for its turn too
            if before is not None:
                await asyncio.wait({before})
            await self._context.write(reply)
        finally:
            self._room.release()
            if permit is not None:
                permit.end()
                self._admission.leave()

    async def _reply(self, data: bytes, permit: Any) -> bytes:
        peer = self._context.peer()
        caller = Caller(peer, self._context.time_remaining(), streamed=True)
        with request_line("model_stream_infer", peer=peer) as line:
            return await self._inference.answer(read(data), permit=permit, caller=caller, line=line)


def _failure(data: bytes, told: str) -> bytes:
    try:
        number = read(data).message.id
    except VitralError:
        number = ""
    reply = pb.ModelStreamInferResponse(error_message=told, infer_response=pb.ModelInferResponse(id=number))
    return bytes(reply.SerializeToString())
