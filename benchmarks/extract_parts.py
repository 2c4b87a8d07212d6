"""The parts of an extraction, one after the other, each alone on the machine: no pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitral import spec as specs
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine import half, image
from vitral_engine.arrangement import arrange
from vitral_engine.artifact import open_artifact
from vitral_engine.device import place
from vitral_engine.preprocess import Preprocessor
from vitral_engine.runtime import cpu_count
from vitral_engine.session import GraphSession
from vitral_extract import layout, plan
from vitral_extract.formats import WRITERS

BATCH = 8
"""Pictures of one run, as the command takes them."""

PARTS = ("read", "decode", "preprocess", "run", "cast", "write")


class Parts:
    """Each part over one shard of pictures at a time, by one thread and by one a core."""

    def __init__(self, model: Path, pictures: Sequence[Path], made: Path) -> None:
        found = open_artifact(model)
        self._spec = found.spec
        graph = specs.main_graph(found.spec)
        assert graph.input.folded, "the graph that pictures take"
        self._preprocessor = Preprocessor(found.spec.preprocessing)
        self._columns = layout.columns(found.spec, (), ("patches",))
        self._rows = plan.shard_rows(self._columns, layout.DTYPES[0])
        self._pictures = pictures
        self._made = made
        self._pool = ThreadPoolExecutor(cpu_count())
        self._sessions = {
            threads: _session(found.folder / graph.file, graph, found.spec, threads)
            for threads in {1, cpu_count()}
        }
        self._seconds: dict[tuple[str, int], list[float]] = {}
        self.row: Array = np.empty(0)

    def run(self) -> dict[str, float]:
        """Seconds of each part, the better of its two ways; `sum` is that of all."""
        self._seconds = {(part, threads): [0.0, 0.0] for part in PARTS for threads in {1, cpu_count()}}
        for start in range(0, len(self._pictures), self._rows):
            self._shard(self._pictures[start : start + self._rows], start)
        best = {}
        cpu = 0.0
        for part in PARTS:
            wall, spent = min(self._seconds[part, threads] for threads in {1, cpu_count()})
            best[part] = wall
            cpu += spent
        return {**best, "sum": sum(best.values()), "sum_cpu": cpu}

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _shard(self, pictures: Sequence[Path], number: int) -> None:
        places = range(len(pictures))
        data = self._each("read", lambda i: pictures[i].read_bytes(), places)
        rgb: list[Image.Image] = self._each("decode", lambda i: image.open_rgb(data[i]), places)
        size = self._spec.preprocessing.size
        pixels = np.empty((len(places), size.height, size.width, 3), np.uint8)

        def preprocess(i: int) -> None:
            pixels[i] = self._preprocessor.resize(rgb[i])

        self._each("preprocess", preprocess, places)
        outputs = self._embed(pixels)
        made = layout.empty(len(places), self._columns, layout.DTYPES[0])
        [(name, rows)] = made.items()

        def cast(batch: int) -> None:
            part = slice(batch * BATCH, (batch + 1) * BATCH)
            half.cast(outputs[part], rows[part])

        self._each("cast", cast, range(-(-len(places) // BATCH)))
        self.row = np.asarray(rows[0], np.float32) if not number else self.row
        self._written([path.name for path in pictures], {name: rows})

    def _each(self, part: str, work: Callable[[int], Any], places: Sequence[int]) -> list[Any]:
        """The work on every place, once in one thread and once in one a core."""
        result: list[Any] = []
        for threads in sorted({1, cpu_count()}):
            with _Clock(self._seconds[part, threads]):
                if threads == 1:
                    result = [work(place) for place in places]
                else:  # a chunk a time: handing over single places would be timed too
                    result = list(self._pool.map(work, places, chunksize=BATCH))
        return result

    def _embed(self, pixels: Array) -> Array:
        """One run after the other over all cores, and one run a core of one thread each."""
        [name] = [output.name for output in self._spec.outputs]
        starts = range(0, len(pixels), BATCH)
        outputs = np.empty((len(pixels), *self._columns[0].shape), np.float32)
        for threads, session in self._sessions.items():
            buffers = [session.allocate(BATCH) for _ in starts]
            for start, one in zip(starts, buffers, strict=True):
                one.input[: len(pixels) - start] = pixels[start : start + BATCH]
                one.outputs[name].fill(0)  # pages that are there, as in buffers that are used again

            def run(index: int, session: GraphSession = session, buffers: Any = buffers) -> None:
                session.run_bound(buffers[index], min(BATCH, len(pixels) - starts[index]))

            with _Clock(self._seconds["run", threads]):
                if threads > 1:
                    list(map(run, range(len(starts))))
                else:
                    list(self._pool.map(run, range(len(starts))))
            for start, one in zip(starts, buffers, strict=True):
                count = min(BATCH, len(pixels) - start)
                outputs[start : start + count] = one.outputs[name][:count]
        return outputs

    def _written(self, ids: list[str], rows: dict[str, Array]) -> None:
        """One file, and one a core of as many rows in all."""
        write = WRITERS["safetensors"]
        for threads in sorted({1, cpu_count()}):
            cuts = np.array_split(np.arange(len(ids)), threads)

            def part(index: int, cuts: Any = cuts) -> None:
                first, last = cuts[index][0], cuts[index][-1] + 1
                mine = {name: array[first:last] for name, array in rows.items()}
                write(self._made, f"part-{index}", ids[first:last], mine)

            with _Clock(self._seconds["write", threads]):
                list(self._pool.map(part, range(threads)))


def _session(file: Path, graph: pb.Graph, spec: pb.ModelSpec, threads: int) -> GraphSession:
    placement = place("cpu")
    options = arrange(placement, threads=threads).options(first=graph == specs.main_graph(spec))
    return GraphSession(file, graph, spec, placement=placement, options=options)


class _Clock:
    """Adds wall and processor seconds to a pair."""

    def __init__(self, seconds: list[float]) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._start
        self._seconds[0] += time.perf_counter() - wall
        self._seconds[1] += time.process_time() - cpu
