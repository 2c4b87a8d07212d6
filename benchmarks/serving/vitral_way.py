"""vitral: its server, and its own client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.processes import family
from benchmarks.serving.pictures import LARGE
from benchmarks.serving.way import Call, Picture, Running
from benchmarks.serving.workload import Workload, viewed

if TYPE_CHECKING:
    from vitral.results import Timings
    from vitral_client import Client

ROOMS = ("protos", "server", "export", "clients")
TIMEOUT = 300.0
"""Seconds of a call: where many callers wait for a slow model, none is to give up."""

STAGES = ("decode_ms", "preprocess_ms", "queue_ms", "run_ms", "encode_ms", "total_ms", "batch_size")


@dataclass(frozen=True)
class VitralWay:
    """vitral's server with vitral's client.

    Attributes:
        name: `vitral`, with what sets a variant apart behind a plus sign.
        args: further flags of the server.
        tree: another checkout whose server and client run; None for this one.
        drifts: whether other answers than the engine's are what it is for.
        transport: of the client.
        streams: whether all pictures go through one stream.
    """

    name: str = "vitral"
    title: str = "vitral"
    python: Path = Path(sys.executable)
    args: tuple[str, ...] = ()
    tree: Path | None = None
    drifts: bool = False
    transport: Literal["grpc", "shm"] = "grpc"
    streams: bool = False

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of its processes."""
        if self.tree is None:
            return os.environ
        return {**os.environ, "PYTHONPATH": os.pathsep.join(str(self.tree / room) for room in ROOMS)}

    def missing(self) -> str:
        """Nothing, unless this server does not know a flag."""
        from vitral_server.config import ServerConfig

        known = {f"--{item.name.replace('_', '-')}" for item in fields(ServerConfig)} | {"--model"}
        unknown = [
            flag for flag in self.args if flag.startswith("--") and flag.partition("=")[0] not in known
        ]
        return f"this server has no {', '.join(unknown)}" if unknown and self.tree is None else ""

    def serves(self, workload: Workload) -> bool:
        """All of them; what is for large pictures, those."""
        height, width = workload.pictures
        return not self.drifts or height * width >= LARGE

    @contextmanager
    def start(self, repo: Path, workload: Workload) -> Iterator[Running]:
        """The server in a process of its own, serving the workload's model alone.

        Raises:
            SystemExit: it ended before it was ready.
        """
        line = [str(self.python), "-m", "vitral_server", "--repo", str(repo), "--model", workload.model]
        line += ["--port", "0", "--drain-delay", "0", *self.args]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=quiet, env=self.environ) as server:
            try:
                assert server.stdout is not None
                told = (json.loads(text) for text in server.stdout)
                address = next((str(one["address"]) for one in told if one["event"] == "serving"), "")
                if not address:
                    raise SystemExit(f"{self.name} ended with exit code {server.wait()} before it was ready")
                yield Running(address, family(server.pid), " ".join(self.args))
            finally:
                _end(server)

    @contextmanager
    def caller(self, address: str, workload: Workload) -> Iterator[Call]:
        """One client, shared by all threads."""
        from vitral_client import Client

        # Another checkout's client may not have a choice.
        made = Client(address, timeout=TIMEOUT, transport="shm") if self.transport == "shm" else None
        kind = _VitralStream if self.streams else _VitralCall
        with made or Client(address, timeout=TIMEOUT) as client:
            yield kind(client, workload)


class _VitralCall:
    """One request; remembers the server's own timings."""

    def __init__(self, client: Client, workload: Workload) -> None:
        self._client, self._workload = client, workload
        # Another tree's client may be from before there were views.
        known = "view" in signature(client.embed).parameters
        self._rows: dict[str, Any] = {"view": workload.view or None} if known else {}
        self._lock = threading.Lock()
        self._sums = dict.fromkeys(STAGES, 0.0)
        self._calls = 0

    def __call__(self, picture: Picture) -> NDArray[Any]:
        """A picture to its output."""
        wanted = self._workload
        reply = self._client.embed(
            picture, model=wanted.model, outputs=[wanted.output], dtype=wanted.dtype, **self._rows
        )
        self._note(reply.timings)
        found = np.asarray(reply.outputs[wanted.output])
        return found if self._rows else viewed(found, wanted)

    def stages(self) -> dict[str, float]:
        """Means of the replies' timings since the last time."""
        with self._lock:
            sums, calls = self._sums, self._calls
            self._sums, self._calls = dict.fromkeys(STAGES, 0.0), 0
        return {name: total / calls for name, total in sums.items()} if calls else {}

    def _note(self, timings: Timings) -> None:
        with self._lock:
            self._calls += 1
            for name in STAGES:
                self._sums[name] += getattr(timings, name)


class _VitralStream(_VitralCall):
    """The same by `embed_stream`."""

    def __call__(self, picture: Picture) -> NDArray[Any]:
        """A picture to its output, in a stream of its own."""
        ((_, reply),) = self._results([picture], 1)
        if isinstance(reply, Exception):
            raise reply
        return np.asarray(reply.outputs[self._workload.output])

    def stream(self, pictures: Iterator[Picture], in_flight: int) -> Iterator[tuple[int, str]]:
        """See `Streaming`."""
        for number, reply in self._results(pictures, in_flight):
            if isinstance(reply, Exception):
                yield number, type(reply).__name__
            else:
                self._note(reply.timings)
                yield number, ""

    def _results(self, pictures: Iterable[Picture], in_flight: int) -> Iterator[tuple[int, Any]]:
        wanted = self._workload
        return self._client.embed_stream(
            pictures,
            model=wanted.model,
            outputs=[wanted.output],
            dtype=wanted.dtype,
            in_flight=in_flight,
            **self._rows,
        )


def _end(server: subprocess.Popen[bytes]) -> None:
    """By SIGTERM, then by force."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
