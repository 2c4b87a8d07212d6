"""What a GPU does with a ViT-B/16 patch embedding: images/s by bucket, latency, CUDA graphs, instances, TF32.

`make bench-gpu` runs it. Every figure includes the copies to the device and back, which is what a caller
waits for; errors are against the float64 goldens. `--device cpu` runs the same code on the CPU as a device.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.base_model import NAME, export
from vitral.errors import VitralError
from vitral.v1 import model_pb2 as pb
from vitral_engine import cuda, device, goldens
from vitral_engine.artifact import Artifact, open_artifact
from vitral_engine.measure import errors
from vitral_engine.placement import CPU, CUDA, Placement
from vitral_engine.runtime import cpu_count, require
from vitral_engine.session import GraphSession, SessionOptions
from vitral_engine.staging import Staging


@dataclass(frozen=True)
class Setting:
    """One way to run a graph."""

    placement: Placement
    staging: Staging
    note: str = ""

    def __str__(self) -> str:
        """As it stands in the table."""
        count = self.staging.instances
        parts = [self.placement.device, f"{count} instance{'s' if count > 1 else ''}"]
        graphs = ["CUDA graphs"] if self.staging.cuda_graphs else []
        return ", ".join(parts + graphs + ([self.note] if self.note else []))


@dataclass(frozen=True)
class Row:
    """How one graph did in one setting.

    Attributes:
        images_per_s: by batch size, from as many threads as there are instances.
        p50_ms, p99_ms: latency of a batch of one, from one thread.
        rel_l2: relative L2 error of the worst golden row.
        load_s: seconds to open and warm it.
    """

    graph: str
    setting: str
    images_per_s: dict[int, float]
    p50_ms: float
    p99_ms: float
    rel_l2: float
    load_s: float


def settings(placement: Placement, *, max_batch: int) -> Iterator[Setting]:
    """What is compared on a device."""
    kinds = (False, True) if placement.provider == CUDA else (False,)
    for graphs in kinds:
        for instances in (1, 2):
            yield Setting(placement, Staging("on", graphs, instances, max_batch))
    if placement.provider == CUDA:
        loose = replace(placement, options=placement.options | {"use_tf32": "1"})
        yield Setting(loose, Staging("on", max_batch=max_batch), "TF32 (never served)")


def measure(found: Artifact, graph: pb.Graph, setting: Setting, *, seconds: float) -> Row:
    """Opens, warms and runs one graph."""
    start = time.perf_counter()
    options = SessionOptions(staging=setting.staging)
    file = found.folder / graph.file
    session = GraphSession(file, graph, found.spec, placement=setting.placement, options=options)
    session.warm(setting.staging.max_batch)
    load_s = time.perf_counter() - start
    callers = setting.staging.instances
    rates = {size: _rate(session, size, callers, seconds) for size in session.buckets}
    p50, p99 = np.percentile(_latencies(session, 1, seconds), (50, 99)) * 1e3
    known = goldens.load(found.folder, found.spec)
    got = session.run(known.inputs[graph.file])
    worst = max(errors(got[name], known.outputs[graph.file, name]).rel_l2 for name in graph.outputs)
    return Row(graph.file, str(setting), rates, float(p50), float(p99), worst, load_s)


def _rate(session: GraphSession, size: int, callers: int, seconds: float) -> float:
    runs: list[int] = []
    threads = [
        threading.Thread(target=lambda: runs.append(len(_latencies(session, size, seconds))))
        for _ in range(callers)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(runs) != callers:
        raise SystemExit(f"{callers - len(runs)} of {callers} callers failed")
    return sum(runs) * size / (time.perf_counter() - start)


def _latencies(session: GraphSession, size: int, seconds: float) -> list[float]:
    found: list[float] = []
    until = time.perf_counter() + seconds
    with session.lease(size) as buffers:
        while (start := time.perf_counter()) < until or not found:
            session.run_bound(buffers, size)
            found.append(time.perf_counter() - start)
    return found


def show(rows: Sequence[Row], console: Console) -> None:
    """Prints the table."""
    sizes = sorted({size for row in rows for size in row.images_per_s})
    heads = [f"batch {size}, images/s" for size in sizes]
    table = Table("graph", "setting", *heads, "batch 1, p50 / p99 ms", "relative L2", "load s")
    for row in rows:
        rates = [f"{row.images_per_s[size]:.0f}" for size in sizes]
        times = f"{row.p50_ms:.2f} / {row.p99_ms:.2f}"
        table.add_row(row.graph, row.setting, *rates, times, f"{row.rel_l2:.1e}", f"{row.load_s:.1f}")
    console.print(table)


def describe(place: Placement) -> str:
    """What stands beside figures of this device."""
    return cuda.context(place.index).describe() if place.provider != CPU else f"{cpu_count()} cores"


def devices(asked: str) -> Iterator[Placement]:
    """The device that is asked for; after a GPU's CUDA also its TensorRT, where that works.

    In this order: TensorRT turns TF32 off for the whole process.

    Raises:
        DeviceError: it does not work here.
    """
    yield device.place(asked)
    if asked == "cuda":
        if (reason := device.fault("tensorrt", 0)) is None:
            yield device.place("tensorrt")
        else:
            print(f"TensorRT is left out: {reason}", file=sys.stderr)


def run(arguments: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """Every graph in every setting, and what the figures hold for.

    Raises:
        VitralError: there is no such device or model.
    """
    device.place(arguments.device)  # before anything takes time
    about = {"runtime": require(), "python": platform.python_version(), "machine": platform.machine()}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model is None:
            export(Path(folder))
        found = open_artifact(arguments.model or Path(folder) / NAME)
        for place in devices(arguments.device):
            about[place.device] = describe(place)
            for setting in settings(place, max_batch=arguments.max_batch):
                rows += _rows(found, setting, arguments.seconds)
    return rows, about


def _rows(found: Artifact, setting: Setting, seconds: float) -> list[Row]:
    return [measure(found, graph, setting, seconds=seconds) for graph in found.spec.graphs]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 1 where there is no such device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="folder of a model (default: ViT-B/16, exported first)")
    parser.add_argument("--device", default="cuda", help="cuda[:N], tensorrt[:N] or cpu")
    parser.add_argument("--max-batch", type=int, default=64, help="largest batch")
    parser.add_argument("--seconds", type=float, default=2.0, help="time of each measurement")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args(argv)
    try:
        rows, about = run(arguments)
    except VitralError as error:
        print(f"bench-gpu: {error}", file=sys.stderr)
        return 1
    console = Console(width=200)
    show(rows, console)
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))
    if arguments.json:
        record = {"machine": about, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(record, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
