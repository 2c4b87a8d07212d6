"""The peers of the serving benchmark: whether each answers right, and with `--seconds` how fast.

python -m benchmarks.serving.peers
python -m benchmarks.serving.peers --search triton --workloads W2 --seconds 3
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.serving.peers import PEERS, search, smoke
from benchmarks.serving.peers.smoke import Material, Result
from benchmarks.serving.workload import WORKLOADS

_WORDS = ("", "workload", "set up")
_FIGURES = ("images/s", "p99 ms", "CPU ms server", "client")


def _names(text: str) -> list[str]:
    return text.split(",")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--ways", type=_names, default=list(PEERS), help=f"default: {','.join(PEERS)}")
    add("--workloads", type=_names, default=["W1", "W2"], help="default: W1,W2")
    add("--callers", type=int, default=8, help="threads that call at the same time (default: 8)")
    add("--seconds", type=float, default=0.0, help="time a way is measured; 0, the default: only its answer")
    add("--search", choices=search.SPACES, help="measure the arrangements of this one instead")
    add("--repo", type=Path, help="repository with the models; otherwise patch-embedding is exported")
    return parser.parse_args(argv)


def _export(repo: Path) -> None:
    command = [sys.executable, "-m", "vitral_export", "build", "patch-embedding", "--repo", str(repo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the export ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")


def results(args: argparse.Namespace, repo: Path) -> list[Result]:
    """What was asked for, workload by workload.

    Raises:
        SystemExit: a way is not installed, or its answer is wrong.
    """
    found: list[Result] = []
    for name in args.workloads:
        material = smoke.prepare(repo, WORKLOADS[name])
        found += _of(args, repo, material)
    return found


def _of(args: argparse.Namespace, repo: Path, material: Material) -> list[Result]:
    callers, seconds = args.callers, args.seconds
    if args.search:
        return search.search(args.search, repo, material, callers=callers, seconds=seconds or 3.0)
    ways = [PEERS[name] for name in args.ways]
    for way in ways:
        if missing := way.missing():
            raise SystemExit(f"{way.name}: {missing}")
    wanted = [way for way in ways if way.serves(material.workload)]
    return [smoke.run(way, repo, material, callers=callers, seconds=seconds) for way in wanted]


def show(found: Sequence[Result], *, callers: int) -> None:
    """The table."""
    table = Table(title=f"the peers, {callers} callers")
    for column in (*_WORDS, *_FIGURES, "relative L2", "processes"):
        table.add_column(column, justify="left" if column in _WORDS else "right")
    for one in found:
        figures = (one.images_per_s, one.p99_ms, one.server_ms, one.client_ms)
        speed = [
            f"{figure:.{digits}f}" if figure else "-"
            for figure, digits in zip(figures, (0, 1, 2, 2), strict=True)
        ]
        table.add_row(one.title, one.workload, one.note, *speed, f"{one.rel_l2:.1e}", str(one.processes))
    console = Console()
    console.width = max(140, console.width)
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs; ends with a message where a way is missing or wrong."""
    args = _arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        repo = args.repo or Path(folder) / "models"
        if args.repo is None:
            _export(repo)
        show(results(args, repo), callers=args.callers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
