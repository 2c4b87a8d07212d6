"""What a cheap output of a whole ViT-B/16 costs beside the bare patch-embedding model; what its graphs hold.

    python -m benchmarks.subgraphs --repo models-bench

The models are exported where they are missing (random weights; minutes). Every round runs each graph for the
same time, one after the other, so that what the machine does meanwhile meets all alike. Memory is that of a
process that has opened the graphs as the engine does and run each at batch 8.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.base_model import NAME, export
from benchmarks.serving.models import Encoder, export_encoder
from benchmarks.session import per_image_ms
from vitral import spec as specs
from vitral.v1 import model_pb2 as pb
from vitral_engine.arrangement import arrange
from vitral_engine.artifact import Artifact, open_artifact
from vitral_engine.device import place
from vitral_engine.runtime import cpu_count
from vitral_engine.session import GraphSession, SessionOptions

WHOLE = "vit-b16"
BASE = Encoder(image=224, patch=16, width=768, heads=12)
OUTPUT = "patch_embeddings"
BATCHES = (1, 8)
WARM = 8


@dataclass(frozen=True)
class Way:
    """One graph to time.

    Attributes:
        name: for the table.
        session: it, open.
        bare: name of the way it is compared with.
    """

    name: str
    session: GraphSession
    bare: str


def make(repo: Path) -> None:
    """Exports both models where they are missing."""
    if not (repo / NAME).is_dir():
        export(repo)
    if not (repo / WHOLE).is_dir():
        print(f"exporting {WHOLE} into {repo}", flush=True)
        export_encoder(repo, WHOLE, BASE, outputs="")


def ways(repo: Path, threads: int) -> list[Way]:
    """The graphs of the bare model and the cheap ones of the whole, as the engine would open them."""
    found = []
    for model in (NAME, WHOLE):
        artifact = open_artifact(repo / model)
        for graph in artifact.spec.graphs:
            if model == WHOLE and graph == specs.whole_graph(artifact.spec, graph):
                continue
            form = "uint8" if graph.input.folded else "float32"
            session = opened(artifact, graph, threads=threads)
            found.append(Way(f"{model} {graph.file}", session, f"{NAME} {_whole_file(form)}"))
    return found


def opened(
    artifact: Artifact, graph: pb.Graph, *, threads: int = 0, share: bool | None = None
) -> GraphSession:
    """A graph as the engine opens it, or with weights shared or not as told."""
    options = arrange(place("cpu"), threads=threads).options(first=graph == specs.main_graph(artifact.spec))
    if share is not None:
        options = SessionOptions(threads=threads, share_weights=share)
    file = artifact.folder / graph.file
    return GraphSession(file, graph, artifact.spec, placement=place("cpu"), options=options)


def times(found: Sequence[Way], batch: int, *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds an image of every way, one figure a round."""
    taken: dict[str, list[float]] = {way.name: [] for way in found}
    for _ in range(rounds):
        for way in found:
            taken[way.name].append(per_image_ms(way.session, batch, seconds=seconds))
    return taken


def table(repo: Path, *, rounds: int, seconds: float) -> Table:
    """Medians, and the median of each round's quotient to the bare model."""
    columns = [column for batch in BATCHES for column in (f"batch {batch}, ms an image", "to bare")]
    made = Table("graph", "threads", *columns)
    for threads in sorted({1, cpu_count()}):
        found = ways(repo, threads)
        by_batch = [times(found, batch, rounds=rounds, seconds=seconds) for batch in BATCHES]
        for way in found:
            cells = []
            for taken in by_batch:
                pairs = zip(taken[way.name], taken[way.bare], strict=True)
                quotient = statistics.median(mine / bare for mine, bare in pairs)
                cells += [f"{statistics.median(taken[way.name]):.2f}", f"{quotient:.2f}"]
            made.add_row(way.name, str(threads), *cells)
    return made


def held(model: Path, files: Sequence[str], share: str) -> dict[str, float]:
    """Milliseconds to open these graphs, and MiB of this process once they have run."""
    artifact = open_artifact(model)
    graphs = [graph for graph in artifact.spec.graphs if graph.file in files]
    start = time.perf_counter()
    chosen = None if share == "engine" else share == "all"
    sessions = [opened(artifact, graph, share=chosen) for graph in graphs]
    opening = (time.perf_counter() - start) * 1e3
    for session in sessions:
        session.warm(WARM)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return {"open_ms": opening, "rss": sizes["Rss"], "anonymous": sizes["Anonymous"], "private": private}


def memory_table(model: Path) -> Table:
    """Memory with no graph, with one, two, and all."""
    spec = open_artifact(model).spec
    files = [graph.file for graph in spec.graphs]
    main = specs.main_graph(spec).file
    whole = [specs.plain_graph(spec).file, main]
    cases = {
        "none": ([], "engine"),
        f"one: {main}": ([main], "engine"),
        f"two: {' and '.join(whole)}": (whole, "engine"),
        f"all {len(files)}": (files, "engine"),
        f"all {len(files)}, each with a prepacked copy": (files, "none"),
        f"all {len(files)}, none prepacked": (files, "all"),
    }
    made = Table("graphs open", "opened in, ms", "resident, MiB", "of it anonymous, MiB")
    for name, (chosen, share) in cases.items():
        line = [sys.executable, "-m", "benchmarks.subgraphs", "--held", str(model), "--share", share, *chosen]
        told = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
        made.add_row(name, *(f"{told[key]:.0f}" for key in ("open_ms", "rss", "anonymous")))
    return made


def main() -> int:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repo", type=Path, default=Path("models-bench"), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="of each measurement (default: %(default)s)"
    )
    parser.add_argument("--held", type=Path, metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument(
        "--share", choices=("engine", "none", "all"), default="engine", help=argparse.SUPPRESS
    )
    parser.add_argument("files", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.held is not None:
        print(json.dumps(held(arguments.held, arguments.files, arguments.share)))
        return 0
    make(arguments.repo)
    out = Console()
    out = out if out.is_terminal else Console(width=130)
    out.print(memory_table(arguments.repo / WHOLE))
    out.print(table(arguments.repo, rounds=arguments.rounds, seconds=arguments.seconds))
    return 0


def _whole_file(form: str) -> str:
    return "model_uint8.onnx" if form == "uint8" else "model.onnx"


if __name__ == "__main__":
    sys.exit(main())
