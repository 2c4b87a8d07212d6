"""Does what steps and streams ask for, by waiting. `aio_driver` has the same, awaited."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import Any, Generic, TypeVar, cast

import grpc

from vitral import heap
from vitral.errors import UnavailableError, VitralError
from vitral_client import failure, item_driver, tracecontext
from vitral_client.call import Call, Job, Steps
from vitral_client.channel import Road, options, target
from vitral_client.image import Image
from vitral_client.item_stream import PATH, Flow
from vitral_client.steps import Result
from vitral_client.stream import Give, Join, Moves, Pull, Run, Signal, Start

T = TypeVar("T")


class Driver:
    """The channels of a client, and the waiting. Threads may share one.

    Raises:
        InvalidArgumentError: the address is none.
    """

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        heap.settle()
        self._address = address
        self._closed = False
        where = target(address)
        self._channels = {road: _open(where, address, road, credentials) for road in Road}

    def run(self, steps: Steps[T]) -> T:
        """Does a verb, in this thread: a call that is waited for later costs gRPC a thread of its own."""
        answer: Any
        try:
            step = next(steps)
            while True:
                try:
                    answer = step.work() if isinstance(step, Job) else self._exchange(step)
                except VitralError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def stream(self, moves: Moves, images: Iterable[Image]) -> Generator[Result, None, None]:
        """Does a stream; where its caller leaves, the calls under way end."""
        source = iter(images)
        under_way: set[Started[Any]] = set()
        answer: Any = None
        try:
            move = next(moves)
            while True:
                try:
                    match move:
                        case Give():
                            yield from move.results
                        case Pull():
                            answered = move.unless is not None and move.unless.done()
                            answer = Signal.ANSWERED if answered else next(source, Signal.END)
                        case Start():
                            answer = Started(self, move.steps)
                            under_way.add(answer)
                        case Join():
                            started = cast(Started[Any], move.what)
                            answer = started.result()
                            under_way.discard(started)
                        case Run():
                            answer = self.run(move.steps)
                except Exception as error:
                    move = moves.throw(error)
                else:
                    move = moves.send(answer)
        except StopIteration:
            return
        finally:
            for started in under_way:
                started.cancel()

    def items(
        self, opened: Steps[Flow], images: Iterable[Image]
    ) -> Generator[tuple[int, Result], None, None]:
        """Does a stream of items; where its caller leaves, the call ends."""
        flow = self.run(opened)

        def begin(messages: Iterator[bytes]) -> Any:
            if self._closed:
                raise UnavailableError(f"the client of {self._address} is closed")
            method: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channels[Road.ONCE].stream_stream(
                PATH
            )
            return method(messages, timeout=flow.terms.left(), metadata=tracecontext.metadata())

        yield from item_driver.stream(flow, images, begin, partial(flow.terms.error, address=self._address))

    def send(self, call: Call) -> grpc.Future[bytes]:
        """Sends a call.

        Raises:
            UnavailableError: the client is closed.
            DeadlineError: its time is over.
        """
        return self._method(call).future(
            call.message, timeout=call.deadline.left(), metadata=tracecontext.metadata()
        )

    def answer(self, call: Call, sent: grpc.Future[bytes]) -> bytes:
        """Waits for the reply.

        Raises:
            VitralError: the call failed.
        """
        try:
            return sent.result()
        except grpc.RpcError as error:
            raise failure.of_call(error, address=self._address, seconds=call.deadline.seconds) from None
        finally:
            sent.cancel()  # for whoever is interrupted; a call that has ended takes no notice

    def _exchange(self, call: Call) -> bytes:
        try:
            return self._method(call)(
                call.message, timeout=call.deadline.left(), metadata=tracecontext.metadata()
            )
        except grpc.RpcError as error:
            raise failure.of_call(error, address=self._address, seconds=call.deadline.seconds) from None

    def _method(self, call: Call) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        if self._closed:
            raise UnavailableError(f"the client of {self._address} is closed")
        return self._channels[call.road].unary_unary(call.path)

    def close(self) -> None:
        """Ends every call and closes the connection."""
        self._closed = True
        for channel in self._channels.values():
            channel.close()


class Started(Generic[T]):
    """A verb of which the first call was sent; whoever asks for its result does the rest."""

    def __init__(self, driver: Driver, steps: Steps[T]) -> None:
        self._driver = driver
        self._turns = self._run(steps)
        self._sent: grpc.Future[bytes] | None = None
        self._result: T | None = None
        self._error: Exception | None = None
        self._turn()

    def done(self) -> bool:
        """Whether the first call has ended."""
        return self._sent is None or self._sent.done()

    def result(self) -> T:
        """What the verb gives; raises what it raises."""
        while self._sent is not None:
            self._turn()
        error, self._error = self._error, None  # or error and traceback would hold each other
        try:
            if error is not None:
                raise error
        finally:
            del error
        return cast(T, self._result)

    def cancel(self) -> None:
        """Ends the call under way."""
        if self._sent is not None:
            self._sent.cancel()

    def _turn(self) -> None:
        try:
            self._sent = next(self._turns)
        except StopIteration as done:
            self._sent, self._result = None, done.value
        except Exception as error:
            self._sent, self._error = None, error

    def _run(self, steps: Steps[T]) -> Generator[grpc.Future[bytes], None, T]:
        answer: Any
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, Job):
                        answer = step.work()
                    else:
                        sent = self._driver.send(step)
                        yield sent
                        answer = self._driver.answer(step, sent)
                except VitralError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result


def _open(where: str, address: str, road: Road, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(where, options(address, road))
    return grpc.secure_channel(where, credentials, options(address, road))
