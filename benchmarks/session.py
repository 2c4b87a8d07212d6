"""Milliseconds an image of every graph by batch size, thread count and weight sharing, without any pipeline.

python -m benchmarks.session models/patch-embedding
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product

from rich.console import Console
from rich.table import Table

from vitral_engine.artifact import open_artifact
from vitral_engine.device import place
from vitral_engine.runtime import cpu_count
from vitral_engine.session import GraphSession, SessionOptions

BATCHES = (1, 4, 8, 32)


def per_image_ms(session: GraphSession, batch: int, *, seconds: float) -> float:
    """Mean milliseconds an image over runs of this batch size."""
    runs = 0
    with session.lease(batch) as buffers:
        session.run_bound(buffers, batch)
        start = time.perf_counter()
        while (took := time.perf_counter() - start) < seconds:
            session.run_bound(buffers, batch)
            runs += 1
    return took / runs / batch * 1e3


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of a model or of one version")
    parser.add_argument("--seconds", type=float, default=1.0, help="time of each measurement")
    arguments = parser.parse_args()
    found = open_artifact(arguments.model)
    table = Table("graph", "threads", "shared weights", *(f"batch {size}, ms" for size in BATCHES))
    for graph, threads, share in product(found.spec.graphs, sorted({1, cpu_count()}), (False, True)):
        options = SessionOptions(threads=threads, share_weights=share)
        file = found.folder / graph.file
        session = GraphSession(file, graph, found.spec, placement=place("cpu"), options=options)
        figures = (f"{per_image_ms(session, size, seconds=arguments.seconds):.2f}" for size in BATCHES)
        table.add_row(graph.file, str(threads), "yes" if share else "no", *figures)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
