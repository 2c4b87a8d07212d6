"""What metrics and traces cost: W1 with neither, with metrics that are scraped, with traces, in one run.

    python -m benchmarks.metrics --rounds 8 --seconds 3

Each ratio is a way over `off` in the same round; processor time of the server is the steadier figure. The
page is read once a second, fifteen times as often as Prometheus would. Traces go to a sink on this machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from socket import socket

import grpc

from benchmarks.machine import machine
from benchmarks.serving import measure, models, rounds
from benchmarks.serving.figures import Figures
from benchmarks.serving.vitral_way import VitralWay
from benchmarks.serving.workload import WORKLOADS


def free_port() -> int:
    """A port that nobody has."""
    with socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def scraped(port: int) -> Iterator[None]:
    """Reads the metrics page once a second."""
    stop = threading.Event()

    def read() -> None:
        while not stop.wait(1.0):
            page = HTTPConnection("127.0.0.1", port, timeout=10)
            page.request("GET", "/metrics")
            page.getresponse().read()
            page.close()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def sink() -> Iterator[str]:
    """Takes spans and forgets them; gives its URL."""
    server = grpc.server(ThreadPoolExecutor(1))
    take = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    name = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": take}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def run(task: measure.Task, *, callers: int, seconds: float, times: int) -> dict[str, list[Figures]]:
    """The figures of each way, one a round."""
    port = free_port()
    with ExitStack() as stack:
        url = stack.enter_context(sink())
        flags = {
            "off": (),
            "metrics": ("--metrics-port", str(port)),
            "traces": ("--trace-endpoint", url),
        }
        turns: list[rounds.Turn] = []
        for name, args in flags.items():
            way = VitralWay(f"vitral+{name}", args=args)
            up = stack.enter_context(measure.served(way, task))
            turns.append(partial(up.run, callers=callers, seconds=seconds))
        stack.enter_context(scraped(port))
        return dict(zip(flags, rounds.rotated(turns, times), strict=True))


def cpu(one: Figures) -> float:
    """Processor milliseconds of the server for an image."""
    return one.server_cpu_s / one.images * 1e3


def show(found: dict[str, list[Figures]]) -> None:
    """One line a way."""
    print(f"{'':8} {'images/s':>9} {'ratio (rounds)':>22} {'CPU ms/image':>13} {'ratio':>22} {'MiB':>5}")
    for name, every in found.items():
        line = f"{name:8}"
        for wide, value in ((9, lambda one: one.rate), (13, cpu)):
            ratios = sorted(value(one) / value(off) for one, off in zip(every, found["off"], strict=True))
            spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})"
            line += f" {statistics.median(map(value, every)):>{wide}.2f} {spread:>22}"
        print(f"{line} {max(one.peak_mib for one in every):>5.0f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repo", type=Path, default=models.DEFAULT_REPO, help="where models are kept")
    parser.add_argument("--callers", type=int, default=8, help="threads that call (default: 8)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a run (default: 3)")
    parser.add_argument("--rounds", type=int, default=8, help="default: 8")
    args = parser.parse_args(argv)
    workload = WORKLOADS["W1"]
    models.make(args.repo, [workload])
    with tempfile.TemporaryDirectory() as folder:
        task = measure.prepare(workload, args.repo.resolve(), Path(folder))
        found = run(task, callers=args.callers, seconds=args.seconds, times=args.rounds)
    print(file=sys.stderr)
    show(found)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
