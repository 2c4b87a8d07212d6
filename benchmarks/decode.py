"""`decode = fast` against exact: milliseconds of decoding and resizing a JPEG, and how far the answers drift.

Cuts of real photographs, enlarged to camera size, with the grain of a sensor and without. The drift is taken
at the default output of a ViT-B/16 patch embedding, for several factors that the decoded sides keep above
those of the resize.

python -m benchmarks.decode
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import vitral_engine
from benchmarks.base_model import NAME, export
from benchmarks.decode_drift import Drift, measure
from benchmarks.decode_pictures import SIZES, Camera, Kind
from benchmarks.machine import machine
from vitral.v1 import model_pb2 as pb
from vitral_engine import image as images
from vitral_engine import scaled
from vitral_engine.engine import Model
from vitral_engine.intake import Intake
from vitral_engine.preprocess import Preprocessor

GAPS = (1.0, 1.5, 2.0, 3.0)
KINDS = {
    **{name: Kind(size) for name, size in SIZES.items()},
    "12 MP, quality 95": Kind(SIZES["12 MP"], quality=95),
    "12 MP, no grain": Kind(SIZES["12 MP"], grain=0.0),
    "12 MP, progressive": Kind(SIZES["12 MP"], progressive=True),
}

DRIFTING = (*SIZES, "12 MP, no grain")


@dataclass(frozen=True)
class Speed:
    """Medians over some pictures of one kind, each decoded both ways in turn.

    Of processor time: it is what a thread takes on a quiet machine, and others who compute add little to it.

    Attributes:
        kind: of the pictures.
        megabytes: mean size of a file.
        exact_ms, fast_ms: from the bytes to the row of the model's size.
        ratio: of the two.
    """

    kind: str
    megabytes: float
    exact_ms: float
    fast_ms: float
    ratio: float


def speed(name: str, kind: Kind, spec: pb.ModelSpec, *, pictures: int, seconds: float) -> Speed:
    """Times one kind."""
    camera = Camera(kind)
    files = [camera.take() for _ in range(pictures)]
    ways = [Intake(spec, decode=decode) for decode in ("exact", "fast")]
    took: tuple[list[float], list[float]] = ([], [])
    graph, until = spec.graphs[-1], time.perf_counter() + seconds
    while time.perf_counter() < until or not took[0]:
        for data in files:
            for way, times in zip(ways, took, strict=True):
                start = time.thread_time()
                way.encoded(data, graph)
                times.append((time.thread_time() - start) * 1e3)
    exact, fast = (float(np.median(times)) for times in took)
    return Speed(name, sum(map(len, files)) / pictures / 1e6, exact, fast, exact / fast)


def drifts(model: Model, kind: Kind, count: int) -> dict[str, Drift]:
    """The drift of every factor."""
    contract = Preprocessor(model.spec.preprocessing)
    ways: dict[str, Callable[[bytes], NDArray[np.uint8]]] = {"exact": partial(_pixels, contract, None)}
    ways |= {f"{gap:g} x": partial(_pixels, contract, gap) for gap in GAPS}
    return measure(model, ways, _taken(kind), count=count)


def _taken(kind: Kind) -> Iterator[bytes]:
    camera = Camera(kind)
    while True:
        yield camera.take()


def _pixels(contract: Preprocessor, gap: float | None, data: bytes) -> NDArray[np.uint8]:
    opened = images.open_header(data)
    extent = None if gap is None else scaled.shrink(opened, contract.spec, gap=gap)
    return contract.resize(images.to_rgb(opened, len(data)), extent)


def main() -> int:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="time of each kind (default: 4)")
    parser.add_argument("--pictures", type=int, default=120, help="pictures of the drift (default: 120)")
    parser.add_argument("--drift", action="append", choices=KINDS, help="of these (default: four of them)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repo", type=Path, help=f"repository that holds {NAME} already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repo = args.repo or Path(folder) / "models"
        if args.repo is None:
            export(repo)
        model = vitral_engine.open(repo / NAME, device="cpu", threads=1)
        kinds = KINDS.items() if args.seconds else ()
        speeds = [speed(name, kind, model.spec, pictures=4, seconds=args.seconds) for name, kind in kinds]
        names = args.drift or DRIFTING if args.pictures else ()
        found = {name: drifts(model, KINDS[name], args.pictures) for name in names}
    if args.json:
        document = {"machine": machine(), "speed": [asdict(one) for one in speeds]}
        told = {kind: {way: asdict(one) for way, one in each.items()} for kind, each in found.items()}
        print(json.dumps({**document, "drift": told}, indent=2))
    else:
        _show(speeds, found)
    return 0


def _show(speeds: list[Speed], found: dict[str, dict[str, Drift]]) -> None:
    table = Table("JPEGs", "MB", "exact, ms", "fast, ms", "x", title="decoding and resizing, processor time")
    for one in speeds:
        figures = (f"{one.megabytes:.2f}", f"{one.exact_ms:.1f}", f"{one.fast_ms:.1f}", f"{one.ratio:.1f}")
        table.add_row(one.kind, *figures)
    heads = ("levels", "rel. L2 median", "max", "neighbour", "only asked", "CLS median", "max", "neighbour")
    drift = Table("JPEGs", "sides kept", *heads, title="drift against exact decoding")
    for kind, each in found.items():
        for way, of in each.items():
            said = [f"{of.levels:.2f}", f"{of.median:.1e}", f"{of.most:.1e}", f"{of.agreement:.1%}"]
            said += [f"{of.mixed:.1%}", f"{of.cls_median:.1e}", f"{of.cls_most:.1e}"]
            drift.add_row(kind, way, *said, f"{of.cls_agreement:.1%}")
    console = Console()
    console.width = max(140, console.width)
    console.print(table, drift)
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()), highlight=False)


if __name__ == "__main__":
    sys.exit(main())
