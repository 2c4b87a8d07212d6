"""`vitral extract` in process against the sum of its parts and against a plain PyTorch loop, in one run.

Real photographs of mixed sizes through a ViT-B/16 patch embedding to float16 rows on disk. The parts are
timed one after the other over the same pictures, each with the better of one thread and one a core; their
sum is what no pipeline at all would take. The loops are written as people write them. Every round runs all of
them, so that what else the machine does hits each alike; how much that was is measured, and the goal is
judged by the runs that had the cores for themselves.
`make bench-extract` runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import extract_loop, extract_parts, extract_run
from benchmarks.base_model import NAME, export
from benchmarks.extract_pictures import draw
from benchmarks.machine import machine
from benchmarks.processes import busy
from vitral.tensors import Array

AGREEMENT = 2e-3
"""Largest relative L2 distance between two float16 rows of the same picture."""

GOAL = 0.90
QUIET = 0.1
"""Cores that others may take beside a run that counts as quiet."""


@dataclass(frozen=True)
class Figures:
    """One way of making the data set, in one round.

    Attributes:
        seconds: of wall time.
        cpu_s: of processor time of this process, where the way tells it, in its workers alone.
        pictures: embedded and written.
        others: cores that other work on the machine took meanwhile, the host's share included.
        parts: seconds of each part, where they are known.
    """

    seconds: float
    cpu_s: float
    pictures: int
    others: float
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds


Way = Callable[[], dict[str, float]]


def timed(way: Way, pictures: int) -> Figures:
    """Runs one way; where it tells `sum` and `sum_cpu`, these are its seconds and not those of the call."""
    worked, cpu, start = busy(), time.process_time(), time.perf_counter()
    parts = way()
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    others = (busy() - worked - cpu_s) / seconds
    return Figures(parts.pop("sum", seconds), parts.pop("sum_cpu", cpu_s), pictures, others, parts)


def rounds(ways: dict[str, tuple[Way, int]], count: int) -> dict[str, list[Figures]]:
    """Every way in every round, each round beginning with another one; the first round is thrown away."""
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    names = list(ways)
    for index in range(count + 1):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            figures = timed(*ways[name])
            if index:
                found[name].append(figures)
    return found


@dataclass(frozen=True)
class Ratio:
    """How one way stands to another.

    Attributes:
        median, low, high: of the rounds' ratios of speed.
        quiet: ratio of the median speeds of the runs beside which little else ran; None where one has none.
        cpu: median of the rounds' ratios of processor time an image, the other's to the one's.
    """

    median: float
    low: float
    high: float
    quiet: float | None
    cpu: float


def ratio(ones: Sequence[Figures], others: Sequence[Figures]) -> Ratio:
    """The ratios over all rounds."""
    pairs = list(zip(ones, others, strict=True))
    each = [one.rate / other.rate for one, other in pairs]
    still = [[figures.rate for figures in both if figures.others < QUIET] for both in (ones, others)]
    quiet = _median(still[0]) / _median(still[1]) if all(still) else None
    cpu = _median((other.cpu_s / other.pictures) / (one.cpu_s / one.pictures) for one, other in pairs)
    return Ratio(_median(each), min(each), max(each), quiet, cpu)


def check(name: str, got: Array, truth: Array) -> None:
    """Refuses a way whose rows are others."""
    gap = float(((got - truth) ** 2).sum() ** 0.5 / (truth**2).sum() ** 0.5)
    if got.shape != truth.shape or not gap < AGREEMENT:
        raise SystemExit(f"{name}: rows are {gap:.1e} from those of `vitral extract`")


def run(repo: Path, folder: Path, *, copies: int, count: int) -> dict[str, list[Figures]]:
    """All of it, over pictures drawn into the folder."""
    pictures = draw(folder / "pictures", copies=copies)
    once = pictures[:: max(copies, 1)]
    made = folder / "made"
    made.mkdir()
    with contextlib.ExitStack() as stack:
        extraction = extract_run.Extraction(repo / NAME, folder / "pictures", made)
        parts = stack.enter_context(contextlib.closing(extract_parts.Parts(repo / NAME, pictures, made)))
        loop = extract_loop.Loop(once, made)
        ways: dict[str, tuple[Way, int]] = {
            "vitral extract": (extraction.run, len(pictures)),
            "sum of the parts": (parts.run, len(pictures)),
            "PyTorch, one by one": (loop.one, len(once)),
            "PyTorch, batches of 8": (loop.batches, len(once)),
        }
        found = rounds(ways, count)
        truth = extraction.row(once[0])
        check("PyTorch", loop.row, truth)
        check("the parts", parts.row, truth)
    return found


def show(found: dict[str, list[Figures]], facts: dict[str, object]) -> None:
    """The tables."""
    first, second, *_ = found
    table = Table(title="ViT-B/16 patch embedding, float16 rows of 301 kB on disk", title_justify="left")
    heads = ("", "images/s", "quiet runs", "CPU ms an image", f"{first} is x this", "in quiet", "in CPU")
    for column in heads:
        table.add_column(column, justify="right" if column else "left")
    for name, figures in found.items():
        rates = [one.rate for one in figures]
        cpu = _median(one.cpu_s / one.pictures for one in figures) * 1e3
        stands = ratio(found[first], figures)
        spread = f"{stands.median:.2f} ({stands.low:.2f} to {stands.high:.2f})"
        quiet = [one.rate for one in figures if one.others < QUIET]
        said = f"{_median(quiet):.0f} ({len(quiet)} of {len(figures)})" if quiet else "none"
        beside = "" if stands.quiet is None else f"{stands.quiet:.2f}"
        table.add_row(name, f"{_median(rates):.0f}", said, f"{cpu:.2f}", spread, beside, f"{stands.cpu:.2f}")
    stages = Table("ms an image, of all threads", *_parts(found[second]), title_justify="left")
    for name in (first, second):
        parts = [
            _median(one.parts[part] / one.pictures for one in found[name]) * 1e3
            for part in _parts(found[second])
        ]
        stages.add_row(name, *(f"{part:.2f}" for part in parts))
    console = Console()
    console.width = max(120, console.width)
    console.print(table)
    console.print(stages)
    said = ", ".join(f"{key} {value:.1%}" for key, value in shares(found[first]).items())
    console.print(f"{first}: {said}", highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)


def _parts(figures: Sequence[Figures]) -> list[str]:
    return list(figures[0].parts)


def shares(figures: Sequence[Figures]) -> dict[str, float]:
    """What writing took: of the processor, and of wall time while nothing else could go on."""
    return {
        "CPU spent in the writer": _median(one.parts["writer_cpu"] / one.cpu_s for one in figures),
        "wall time waiting for it": _median(one.parts["wait"] / one.seconds for one in figures),
        "wall time of its last shard": _median(one.parts["tail"] / one.seconds for one in figures),
        "before and after the workers": _median(one.parts["around"] / one.seconds for one in figures),
    }


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def main() -> int:
    """Runs the benchmark; 1 when `vitral extract` misses its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="rounds that count (default: 8)")
    parser.add_argument("--copies", type=int, default=4, help="times each of the 220 pictures (default: 4)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repo", type=Path, help=f"repository that holds {NAME} already")
    parser.add_argument("--work", type=Path, help="folder to write to (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        folder = Path(name)
        repo = args.repo or folder / "models"
        if args.repo is None:
            export(repo)
        found = run(repo, folder, copies=args.copies, count=args.rounds)
    facts = machine() | {"load": f"{os.getloadavg()[0]:.1f}"}
    first, second, *_ = found
    if args.json:
        rows = {name: [asdict(one) | {"rate": one.rate} for one in each] for name, each in found.items()}
        ratios = {name: asdict(ratio(found[first], figures)) for name, figures in found.items()}
        print(json.dumps({"machine": facts, "ratios": ratios, "shares": shares(found[first]), "rows": rows}))
    else:
        show(found, facts)
    quiet = ratio(found[first], found[second]).quiet
    if quiet is None:
        print("not judged: other work took the cores all the time", file=sys.stderr)
    elif quiet < GOAL:
        print(f"{first} does {quiet:.2f} of {second}, the goal is {GOAL}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
