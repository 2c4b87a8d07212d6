"""The limit: decode, preprocess, run and cast in one process, by the engine's own parts, and no RPC.

    python -m benchmarks.serving.limit --repo models-bench --workload W2 --pictures FOLDER --search 10

Each of some threads takes a few pictures at a time through all of it, into buffers that are used again.
The arrangement of threads and the batch are searched for; JSON is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import processes
from benchmarks.serving import pictures
from benchmarks.serving.load import CHECKED
from benchmarks.serving.way import Picture
from benchmarks.serving.workload import WORKLOADS, Workload, viewed
from vitral import spec as specs
from vitral_engine import half
from vitral_engine.artifact import open_artifact
from vitral_engine.device import place
from vitral_engine.intake import Intake, Row
from vitral_engine.runtime import cpu_count
from vitral_engine.session import Buffers, GraphSession, SessionOptions

BATCHES = (1, 4, 8)
STAGES = ("decode_ms", "preprocess_ms", "run_ms", "encode_ms")


@dataclass(frozen=True)
class Arrangement:
    """Threads side by side, onnxruntime's threads in each run, pictures of a run, weights repacked."""

    workers: int = 1
    threads: int = 1
    batch: int = 1
    prepacked: bool = False

    def __str__(self) -> str:
        """As a note."""
        packed = ", prepacked" if self.prepacked else ""
        return f"{self.workers} x {self.threads} threads, batch {self.batch}{packed}"


def arrangements(cores: int) -> list[Arrangement]:
    """Those that are tried, without repacked weights."""
    pairs = dict.fromkeys([(cores, 1), (1, cores), (cores, cores), (1, 1), (2 * cores, 1)])
    return [Arrangement(*pair, batch) for pair in pairs for batch in BATCHES]


class Limit:
    """One workload's whole work in this process."""

    def __init__(self, repo: Path, workload: Workload, every: Sequence[Picture]) -> None:
        self._found = open_artifact(repo / workload.model)
        self._workload, self._every = workload, every
        self._graph = specs.cheapest_graph(self._found.spec, [workload.output], pixels=True)
        self._intake = Intake(self._found.spec)
        self._sessions: dict[tuple[int, bool], GraphSession] = {}

    def run(self, how: Arrangement, seconds: float) -> tuple[int, float, dict[str, float]]:
        """Images, the seconds they took, and the mean milliseconds that one spent in each stage."""
        session, turn = self._session(how), pictures.rotation(self._every)
        done, until = [0] * how.workers, time.perf_counter() + seconds
        spent = [dict.fromkeys(STAGES, 0.0) for _ in done]

        def work(number: int) -> None:
            buffers, made = self._room(session, how.batch)
            while not done[number] or time.perf_counter() < until:
                self._once(session, buffers, made, [turn() for _ in range(how.batch)], spent[number])
                done[number] += how.batch

        start = time.perf_counter()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(how.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took, images = time.perf_counter() - start, sum(done)
        return images, took, {stage: sum(one[stage] for one in spent) / images for stage in STAGES}

    def answers(self) -> NDArray[Any]:
        """The first few pictures' outputs, one array."""
        session = self._session(Arrangement())
        buffers, made = self._room(session, 1)
        spent = dict.fromkeys(STAGES, 0.0)
        few = self._every[:CHECKED]
        return np.stack([np.array(self._once(session, buffers, made, [one], spent)[0]) for one in few])

    def _once(
        self,
        session: GraphSession,
        buffers: Buffers,
        made: NDArray[Any] | None,
        batch: Sequence[Picture],
        spent: dict[str, float],
    ) -> NDArray[Any]:
        for slot, one in zip(buffers.input, batch, strict=True):
            row = self._row(one)
            np.copyto(slot, row.array, casting="no")
            spent["decode_ms"] += row.decode_ms
            spent["preprocess_ms"] += row.preprocess_ms
        start = time.perf_counter()
        session.run_bound(buffers, len(batch))
        spent["run_ms"] += (time.perf_counter() - start) * 1e3
        found = buffers.outputs[self._workload.output]
        wanted = found[:, 0] if self._workload.view == "cls" else found
        if made is None:
            return wanted
        start = time.perf_counter()
        half.cast(wanted, made)
        spent["encode_ms"] += (time.perf_counter() - start) * 1e3
        return made

    def _row(self, picture: Picture) -> Row:
        if isinstance(picture, bytes):
            return self._intake.encoded(picture, self._graph)
        return self._intake.pixels(picture, self._graph)

    def _room(self, session: GraphSession, batch: int) -> tuple[Buffers, NDArray[Any] | None]:
        """Buffers of a run, and where float16 goes."""
        buffers = session.allocate(batch)
        found = buffers.outputs[self._workload.output]
        shape = (batch, *viewed(found[0], self._workload).shape)
        return buffers, np.empty(shape, np.float16) if self._workload.dtype == "float16" else None

    def _session(self, how: Arrangement) -> GraphSession:
        key = how.threads, how.prepacked
        if key not in self._sessions:
            shared = len(self._found.spec.graphs) > 1 and not how.prepacked
            options = SessionOptions(threads=how.threads, share_weights=shared)
            file, spec = self._found.folder / self._graph.file, self._found.spec
            self._sessions[key] = GraphSession(
                file, self._graph, spec, placement=place("cpu"), options=options
            )
        return self._sessions[key]


def search(rate: Callable[[Arrangement], float], choices: Iterable[Arrangement]) -> Arrangement:
    """The fastest of these, and then of it with and without repacked weights."""
    best = max(choices, key=rate)
    return max(best, replace(best, prepacked=True), key=rate)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", required=True, type=Path)
    parser.add_argument("--workload", required=True, choices=WORKLOADS)
    parser.add_argument("--pictures", required=True, type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--search", type=float, default=0.0, help="seconds of the search, if there is one")
    parser.add_argument("--arrangement", type=json.loads, default={}, help="what a search has found, as JSON")
    parser.add_argument("--answers", type=Path, help="file for the first answers")
    args = parser.parse_args(argv)
    every = pictures.load(args.pictures)
    limit = Limit(args.repo, WORKLOADS[args.workload], every)
    if args.answers:
        np.save(args.answers, limit.answers())
    how = Arrangement(**args.arrangement)
    if args.search:
        choices = arrangements(cpu_count())
        each = args.search / (len(choices) + 2)
        how = search(lambda one: _rate(limit, one, each), choices)
    limit.run(how, args.seconds / 5)
    cpu, all_cpu = time.process_time(), processes.busy()
    images, seconds, spent = limit.run(how, args.seconds)
    cpu = time.process_time() - cpu
    told = {"images": images, "seconds": seconds, "server_cpu_s": cpu, "note": str(how)}
    told |= {
        "stages": spent,
        "others": (processes.busy() - all_cpu - cpu) / seconds,
        "arrangement": asdict(how),
    }
    print(json.dumps(told | {"peak_mib": processes.peak_mib([os.getpid()])}))
    return 0


def _rate(limit: Limit, how: Arrangement, seconds: float) -> float:
    limit.run(how, seconds / 5)
    images, took, _ = limit.run(how, seconds)
    return images / took


if __name__ == "__main__":
    sys.exit(main())
