"""A way of serving that is measured: how its server is started, and how its own client calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.workload import Workload

Picture: TypeAlias = bytes | NDArray[np.uint8]
"""JPEG bytes, or uint8 (H, W, 3)."""

Call: TypeAlias = Callable[[Picture], NDArray[Any]]
"""One blocking request through the way's own client: a picture to its output, without the batch axis."""


@runtime_checkable
class Staged(Protocol):
    """A call that knows where the server spent its time."""

    def stages(self) -> dict[str, float]:
        """Mean milliseconds of each stage over the calls since the last time this was asked."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A call that can also do many pictures in one stream."""

    def stream(self, pictures: Iterator[Picture], in_flight: int) -> Iterator[tuple[int, str]]:
        """The position of each picture as it is answered, and its error, if any, with so many under way."""
        ...


@dataclass(frozen=True)
class Running:
    """A server that is ready.

    Attributes:
        address: `host:port` on loopback.
        pids: its processes, of which processor time and memory are read.
        note: how it was set up: threads, instances.
    """

    address: str
    pids: tuple[int, ...]
    note: str = ""


class Way(Protocol):
    """One way of serving, known to the command by its name.

    `start` runs in the benchmark's own process; `caller` runs in the load generator's, started with `python`.
    Neither may import at module level what only one of the two environments has.
    """

    @property
    def name(self) -> str:
        """By which the command knows it."""
        ...

    @property
    def title(self) -> str:
        """What it is, for tables and plots."""
        ...

    @property
    def python(self) -> Path:
        """Interpreter whose environment has its client."""
        ...

    def missing(self) -> str:
        """What has to be installed first, in words; empty when all is there."""
        ...

    def serves(self, workload: Workload) -> bool:
        """Whether it can do this workload."""
        ...

    def start(self, repo: Path, workload: Workload) -> AbstractContextManager[Running]:
        """Its server over this repository of vitral models, ready; ended on exit."""
        ...

    def caller(self, address: str, workload: Workload) -> AbstractContextManager[Call]:
        """Its client; the call may be used by many threads."""
        ...
