"""Does what steps and streams ask for, by awaiting. `driver` has the same for callers that block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from vitral import heap
from vitral.errors import UnavailableError, VitralError
from vitral_client import aio_item_driver, failure, tracecontext
from vitral_client.aio_source import Images, Source
from vitral_client.call import Call, Job, Steps
from vitral_client.channel import Road, options, target
from vitral_client.item_stream import PATH, Flow
from vitral_client.steps import Result
from vitral_client.stream import Give, Join, Moves, Pull, Run, Start

T = TypeVar("T")


class Driver:
    """The channels of a client, and the waiting, for one event loop.

    Raises:
        InvalidArgumentError: the address is none.
    """

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        heap.settle()
        self._address = address
        self._target = target(address)
        self._credentials = credentials
        self._closed = False
        self._channels: dict[Road, grpc.aio.Channel] = {}

    async def run(self, steps: Steps[T]) -> T:
        """Does a verb."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._do(step)
                except VitralError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def stream(self, moves: Moves, images: Images) -> AsyncGenerator[Result, None]:
        """Does a stream; where its caller leaves, the calls under way end."""
        source = Source(images)
        under_way: set[asyncio.Task[Any]] = set()
        answer: Any = None
        try:
            move = next(moves)
            while True:
                try:
                    match move:
                        case Give():
                            for result in move.results:
                                yield result
                        case Pull():
                            answer = await source.pull(cast("asyncio.Task[Any] | None", move.unless))
                        case Start():
                            answer = asyncio.create_task(self.run(move.steps))
                            under_way.add(answer)
                        case Join():
                            started = cast("asyncio.Task[Any]", move.what)
                            answer = await started
                            under_way.discard(started)
                        case Run():
                            answer = await self.run(move.steps)
                except Exception as error:
                    move = moves.throw(error)
                else:
                    move = moves.send(answer)
        except StopIteration:
            return
        finally:
            for started in under_way:
                started.cancel()
            await asyncio.gather(source.close(), *under_way, return_exceptions=True)

    async def items(self, opened: Steps[Flow], images: Images) -> AsyncGenerator[tuple[int, Result], None]:
        """Does a stream of items; where its caller leaves, the call ends."""
        flow = await self.run(opened)

        def begin() -> Any:
            if self._closed:
                raise UnavailableError(f"the client of {self._address} is closed")
            channel = self._channel(Road.ONCE)
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(PATH)
            return method(timeout=flow.terms.left(), metadata=tracecontext.metadata())

        told = partial(flow.terms.error, address=self._address)
        results = aio_item_driver.stream(flow, images, begin, told)
        async with aclosing(results):
            async for result in results:
                yield result

    async def close(self) -> None:
        """Ends every call and closes the connection."""
        self._closed = True
        for channel in self._channels.values():
            await channel.close()

    async def _do(self, step: Call | Job) -> Any:
        if isinstance(step, Job):
            return await asyncio.to_thread(step.work) if step.blocks else step.work()
        if self._closed:
            raise UnavailableError(f"the client of {self._address} is closed")
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel(step.road).unary_unary(
            step.path
        )
        try:
            return await method(step.message, timeout=step.deadline.left(), metadata=tracecontext.metadata())
        except grpc.RpcError as error:
            seconds = step.deadline.seconds
            raise failure.of_call(error, address=self._address, seconds=seconds) from None

    def _channel(self, road: Road) -> grpc.aio.Channel:
        # Opened by the first call: a channel belongs to the event loop it is opened in.
        if road not in self._channels:
            self._channels[road] = _open(self._target, self._address, road, self._credentials)
        return self._channels[road]


def _open(
    where: str, address: str, road: Road, credentials: grpc.ChannelCredentials | None
) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(where, options(address, road))
    return grpc.aio.secure_channel(where, credentials, options(address, road))
