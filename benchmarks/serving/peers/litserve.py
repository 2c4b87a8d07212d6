"""LitServe, and the standard library's HTTP client."""

from __future__ import annotations

import contextlib
import http.client
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.peers import venv
from benchmarks.serving.peers.process import free_port, started
from benchmarks.serving.way import Call, Picture, Running
from benchmarks.serving.workload import Workload


@dataclass(frozen=True)
class Arrangement:
    """What is searched for; the defaults are what the search found.

    Beside other load on 2 cores, images/s on W1 and W2 at 8 callers: 271 and 202 as it is, 245 and 128 with 1
    worker, 129 and 37 with two threads each, 219 and 117 with the default queue.

    Attributes:
        workers: processes that run the model; as many answer HTTP.
        threads: onnxruntime's intra-op threads in each.
        fast_queue: replies between the processes by ZeroMQ.
    """

    workers: int = 2
    threads: int = 1
    fast_queue: bool = True

    def __str__(self) -> str:
        """In words."""
        queue = "ZeroMQ" if self.fast_queue else "default queue"
        return f"{self.workers} workers x {self.threads} threads, {queue}"


_FOUND = Arrangement()


class LitServe:
    """`litserve_server.py` in the peers' environment."""

    name = "litserve"
    title = "LitServe 0.2"
    python = Path(sys.executable)

    def __init__(self, arrangement: Arrangement = _FOUND) -> None:
        self._arrangement = arrangement

    def missing(self) -> str:
        """What `make bench-peers` has to install."""
        return venv.missing("litserve")

    def serves(self, workload: Workload) -> bool:
        """All of them."""
        return True

    @contextmanager
    def start(self, repo: Path, workload: Workload) -> Iterator[Running]:
        """The server and its workers, ready; ended on exit."""
        arrangement = self._arrangement
        address = f"127.0.0.1:{free_port()}"
        module = "benchmarks.serving.peers.litserve_server"
        command = [str(venv.PYTHON), "-m", module, str(repo.resolve() / workload.model)]
        command += ["--workload", workload.name, "--port", address.split(":")[1]]
        command += ["--workers", str(arrangement.workers), "--threads", str(arrangement.threads)]
        command += ["--fast-queue"] if arrangement.fast_queue else []
        with (
            tempfile.TemporaryDirectory() as folder,
            started(command, ready=lambda: _healthy(address), log=Path(folder) / "log") as pids,
        ):
            yield Running(address, pids, str(arrangement))

    @contextmanager
    def caller(self, address: str, workload: Workload) -> Iterator[Call]:
        """One connection for each thread, kept alive."""
        mine, every = threading.local(), list[http.client.HTTPConnection]()
        headers = {"Content-Type": "application/octet-stream"}

        def call(picture: Picture) -> NDArray[Any]:
            if not hasattr(mine, "connection"):
                mine.connection = http.client.HTTPConnection(address)
                every.append(mine.connection)
            body = picture if isinstance(picture, bytes) else picture.tobytes()
            mine.connection.request("POST", "/predict", body, headers)
            reply = mine.connection.getresponse()
            data = reply.read()
            if reply.status != http.HTTPStatus.OK:
                raise ConnectionError(f"LitServe answered {reply.status}: {data[:200]!r}")
            shape = tuple(map(int, reply.headers["shape"].split(",")))
            return np.frombuffer(data, workload.dtype).reshape(shape)

        try:
            yield call
        finally:
            for connection in every:
                connection.close()


def _healthy(address: str) -> bool:
    """Whether all workers are ready."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=5)) as connection:
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
