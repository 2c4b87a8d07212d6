"""What gRPC itself costs in Python: replies of a patch embedding's size from a handler that does nothing.

150 kB there, 602 kB (float32) or 301 kB (float16) back, on loopback, with the client's channel options: the
floor below which no server of these bytes gets. `python -m benchmarks.rpc` prints calls a second and the
processor time of a call, then the latency of small calls, back to back and with everybody asleep between.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import grpc
from grpc import aio

from vitral import heap
from vitral_client.channel import Road, options

REQUEST = 224 * 224 * 3
REPLIES = {"float32": 196 * 768 * 4, "float16": 196 * 768 * 2}
SMALL, GAP = 1_600, 0.05  # bytes of a reply of one token, seconds between calls that find everybody asleep
_REPLY, _CPU, _STREAM = (f"/bare.Server/{name}" for name in ("Reply", "Cpu", "Stream"))


def cpu() -> float:
    """Processor seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def serve(size: int) -> None:
    """Answers every call with a fresh reply of so many bytes; prints the port."""
    heap.settle()
    template = os.urandom(size)

    async def reply(request: bytes, context: object) -> bytes:
        return b"".join((template, b""))  # as a framed reply: one copy into fresh memory

    async def stream(requests: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]) -> None:
        async for _ in requests:
            await context.write(b"".join((template, b"")))

    async def used(request: bytes, context: object) -> bytes:
        return repr(cpu()).encode()

    methods = {
        "Reply": grpc.unary_unary_rpc_method_handler(reply),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
        "Cpu": grpc.unary_unary_rpc_method_handler(used),
    }
    server = aio.server(options=options("", Road.PLAIN))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Server", methods),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def threads(address: str, callers: int, seconds: float) -> tuple[int, float]:
    """Calls of so many threads, and the processor seconds of this process."""
    with grpc.insecure_channel(address, options(address, Road.PLAIN)) as channel:
        call, message = channel.unary_unary(_REPLY), os.urandom(REQUEST)
        call(message)
        until, counts = time.perf_counter() + seconds, [0] * callers

        def caller(number: int) -> None:
            while time.perf_counter() < until:
                call(message)
                counts[number] += 1

        workers = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
        before = cpu()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(counts), cpu() - before


def tasks(address: str, callers: int, seconds: float) -> tuple[int, float]:
    """The same by tasks of one event loop."""

    async def run() -> tuple[int, float]:
        async with aio.insecure_channel(address, options(address, Road.PLAIN)) as channel:
            call, message = channel.unary_unary(_REPLY), os.urandom(REQUEST)
            await call(message)
            until, count = time.perf_counter() + seconds, 0

            async def caller() -> None:
                nonlocal count
                while time.perf_counter() < until:
                    await call(message)
                    count += 1

            before = cpu()
            await asyncio.gather(*(caller() for _ in range(callers)))
            return count, cpu() - before

    return asyncio.run(run())


def stream(address: str, callers: int, seconds: float) -> tuple[int, float]:
    """The same in one stream, with so many messages under way."""

    async def run() -> tuple[int, float]:
        async with aio.insecure_channel(address, options(address, Road.PLAIN)) as channel:
            call, message = channel.stream_stream(_STREAM)(), os.urandom(REQUEST)
            until, count, before = time.perf_counter() + seconds, 0, cpu()
            for _ in range(callers):
                await call.write(message)
            while time.perf_counter() < until:
                await call.read()
                count += 1
                await call.write(message)
            return count, cpu() - before

    return asyncio.run(run())


@contextmanager
def served(size: int) -> Iterator[str]:
    """A server of replies of so many bytes; gives its address."""
    line = [sys.executable, "-m", "benchmarks.rpc", "--serve", str(size)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


def latency(gap: float, calls: int = 60) -> None:
    """One line: milliseconds of a call of a photograph's size that brings one token."""
    with served(SMALL) as address, grpc.insecure_channel(address) as channel:
        call, message, took = channel.unary_unary(_REPLY), os.urandom(REQUEST // 2), []
        for _ in range(calls):
            time.sleep(gap)
            start = time.perf_counter()
            call(message)
            took.append((time.perf_counter() - start) * 1e3)
    said = f"{gap * 1e3:.0f} ms between calls" if gap else "back to back"
    print(f"one token, one caller, {said}: p50 {statistics.median(took[5:]):.2f} ms", flush=True)


def measure(
    name: str, calls: Callable[[str, int, float], tuple[int, float]], callers: int, seconds: float
) -> None:
    """One line for each size of reply."""
    for dtype, size in REPLIES.items():
        with served(size) as address, grpc.insecure_channel(address) as channel:
            used = channel.unary_unary(_CPU)
            before, start = float(used(b"")), time.perf_counter()
            count, client = calls(address, callers, seconds)
            elapsed, spent = time.perf_counter() - start, float(used(b"")) - before
        each = [value / count * 1e3 for value in (spent, client, spent + client)]
        said = "server {:.2f} + client {:.2f} = {:.2f} ms of processor a call".format(*each)
        print(f"{dtype}, {callers} callers in {name}: {count / elapsed:.0f} calls/s, {said}", flush=True)


def main() -> None:
    """Measures threads, tasks and a stream, then latency."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--serve", type=int, metavar="BYTES", help="be the server")
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve(args.serve))
        return
    heap.settle()
    measure("threads", threads, args.callers, args.seconds)
    measure("tasks", tasks, args.callers, args.seconds)
    measure("one stream", stream, args.callers, args.seconds)
    latency(0.0)
    latency(GAP)


if __name__ == "__main__":
    main()
