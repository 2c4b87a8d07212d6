"""One way on one workload: its answers checked first, then measured by a process that does nothing else."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import processes
from benchmarks.serving import pictures
from benchmarks.serving.figures import Figures
from benchmarks.serving.load import CHECKED
from benchmarks.serving.vitral_way import VitralWay
from benchmarks.serving.way import Running, Way
from benchmarks.serving.ways import ENGINE, LIMIT, LOOP
from benchmarks.serving.workload import Workload, viewed

ROOT = Path(__file__).resolve().parent.parent.parent
AGREEMENT: Mapping[str, float] = MappingProxyType({"float32": 1e-5, "float16": 2e-3})
"""Largest relative L2 distance of an answer from the engine's float32 one."""

WARM_UP = 1.0
"""Seconds of calls before those that are measured."""


class Wrong(SystemExit):
    """An answer is not the engine's: nothing that such a way does is worth measuring."""


@dataclass(frozen=True)
class Task:
    """A workload with its material.

    Attributes:
        repo: repository with its model.
        pictures: folder with its pictures.
        truth: the engine's float32 answers to the first few of them.
    """

    workload: Workload
    repo: Path
    pictures: Path
    truth: NDArray[Any]


def prepare(workload: Workload, repo: Path, folder: Path) -> Task:
    """Draws the pictures below the folder and asks the engine, in this process."""
    import vitral_engine

    place = pictures.draw(folder, workload)
    model = vitral_engine.open(repo / workload.model, device="cpu")
    few = pictures.load(place)[:CHECKED]
    found = model.embed(few, outputs=[workload.output])
    model.close()
    truth = np.stack([viewed(one.outputs[workload.output], workload) for one in found])
    return Task(workload, repo, place, truth)


def distance(task: Task, got: NDArray[Any]) -> float:
    """Relative L2 distance of the first answers from the engine's; infinite where the shape is another."""
    if got.shape != task.truth.shape:
        return float("inf")
    gaps = got.astype(np.float64) - task.truth
    return float(np.linalg.norm(gaps) / np.linalg.norm(task.truth))


def check(name: str, task: Task, got: NDArray[Any]) -> None:
    """Refuses a way with other answers, or in another element type.

    Raises:
        Wrong: it has.
    """
    dtype, most = task.workload.dtype, AGREEMENT[task.workload.dtype]
    gap = distance(task, got)
    if got.dtype != dtype or not gap < most:
        said = f"answers {got.dtype} {got.shape}, {gap:.1e} from the engine's {task.truth.shape}"
        raise Wrong(f"{name} on {task.workload.name}: {said}; {dtype} within {most:.0e} is wanted")


@dataclass
class Served:
    """A way whose server is up, ready to be called."""

    way: Way
    task: Task
    running: Running
    checked: bool = False

    def run(self, *, callers: int, seconds: float, rate: float = 0.0) -> Figures:
        """Calls it from a process of its own.

        Raises:
            Wrong: its first answers are not the engine's.
            SystemExit: the load generator failed.
        """
        pids = processes.family(self.running.pids[0]) if len(self.running.pids) == 1 else self.running.pids
        with tempfile.TemporaryDirectory() as folder:
            answers = Path(folder) / "answers.npy"
            line = ["--way", self.way.name, "--address", self.running.address]
            line += ["--workload", self.task.workload.name, "--pictures", str(self.task.pictures)]
            line += ["--callers", str(callers), "--rate", str(rate), "--seconds", str(seconds)]
            line += ["--warm-up", str(WARM_UP), "--pids", *map(str, pids)]
            line += [] if self.checked else ["--answers", str(answers)]
            environ = self.way.environ if isinstance(self.way, VitralWay) else os.environ
            told = _told(self.way.python, "load", line, environ)
            if not self.checked:
                if not (isinstance(self.way, VitralWay) and self.way.drifts):
                    check(self.way.name, self.task, np.load(answers))
                self.checked = True
        return Figures(
            way=self.way.name,
            workload=self.task.workload.name,
            callers=callers,
            arrivals=rate,
            peak_mib=processes.peak_mib(pids),
            note=self.running.note,
            **_keyed(told),
        )


@contextmanager
def served(way: Way, task: Task) -> Iterator[Served]:
    """Its server, ready."""
    with way.start(task.repo, task.workload) as running:
        yield Served(way, task, running)


@dataclass
class Limit:
    """What one process does without RPC; the arrangement is searched for once."""

    task: Task
    arrangement: dict[str, Any] = field(default_factory=dict)

    def run(self, *, seconds: float) -> Figures:
        """Measures.

        Raises:
            Wrong: its first answers are not the engine's.
        """
        with tempfile.TemporaryDirectory() as folder:
            answers = Path(folder) / "answers.npy"
            line = ["--repo", str(self.task.repo), "--workload", self.task.workload.name]
            line += ["--pictures", str(self.task.pictures), "--seconds", str(seconds)]
            line += ["--arrangement", json.dumps(self.arrangement), "--answers", str(answers)]
            line += [] if self.arrangement else ["--search", str(SEARCH)]
            told = _told(Path(sys.executable), "limit", line, os.environ)
            check(LIMIT, self.task, np.load(answers))
        self.arrangement = told.pop("arrangement")
        return Figures(LIMIT, self.task.workload.name, 0, **told)


SEARCH = 10.0
"""Seconds in which the limit looks for its arrangement."""


def engine(task: Task, *, seconds: float) -> Figures:
    """The engine in process, one picture a call.

    Raises:
        Wrong: its first answers are not those of a moment ago.
    """
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.npy"
        line = ["--repo", str(task.repo), "--workload", task.workload.name, "--pictures", str(task.pictures)]
        line += ["--seconds", str(seconds), "--answers", str(answers)]
        told = _told(Path(sys.executable), "embedded", line, os.environ)
        check(ENGINE, task, np.load(answers))
    told = _keyed(told) | {"client_cpu_s": 0.0, "wire_bytes": 0}
    return Figures(ENGINE, task.workload.name, 1, **told)


def loop(task: Task, *, seconds: float) -> Figures:
    """A plain torch loop, which serves nobody either."""
    line = ["--workload", task.workload.name, "--pictures", str(task.pictures)]
    line += ["--seconds", str(seconds), "--json"]
    start, busy, own = time.perf_counter(), processes.busy(), _children_cpu_s()
    told = _told(Path(sys.executable), "peers.loop", line, os.environ)
    others = (processes.busy() - busy - (_children_cpu_s() - own)) / (time.perf_counter() - start)
    images, took, cpu = int(told["images"]), float(told["seconds"]), float(told["cpu_s"])
    return Figures(LOOP, task.workload.name, 0, images, took, server_cpu_s=cpu, others=others)


def _children_cpu_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _keyed(told: dict[str, Any]) -> dict[str, Any]:
    """With percentiles as numbers, which no key of JSON can be."""
    return told | {"latency": {float(percent): value for percent, value in told["latency"]}}


def _told(python: Path, module: str, line: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object that a module of this benchmark prints.

    Raises:
        SystemExit: it failed.
    """
    command = [str(python), "-m", f"benchmarks.serving.{module}", *line]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
