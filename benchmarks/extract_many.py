"""`vitral extract` over many pictures: is memory level, does what was written verify, how fast was it.

JPEGs of mixed size, cuts of real photographs, one in a hundred damaged, each under two names so that the
run takes long enough; the mean of a ViT-B/16 patch embedding's rows, so that the data set stays small. The
command runs as a user runs it, in a process of its own whose resident memory is read once a second.
`make bench-extract-many` runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from benchmarks.base_model import NAME, export
from benchmarks.extract_pictures import SIZES, cut, photographs
from benchmarks.machine import machine

BIN = Path(sys.executable).parent
FOLDERS = 50
BAD_EVERY = 100
SETTLED = 60.0
"""Seconds after which resident memory should stay where it is."""

GOAL = 50.0
"""MiB that it may be from its value then."""


@dataclass(frozen=True)
class Sample:
    """Resident memory of the command at a moment: seconds since its start, MiB."""

    second: float
    mib: float


def draw(folder: Path, count: int, *, copies: int) -> int:
    """Writes the JPEGs, each under so many names; returns how many of the names are of damaged ones."""
    for part in range(FOLDERS):
        (folder / f"{part:02}").mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        bad = sum(pool.map(_draw_part, repeat(folder), range(FOLDERS), repeat(count)))
    for copy in range(1, copies):
        for part in range(FOLDERS):
            again = folder / f"{part:02}-{copy}"
            again.mkdir()
            for path in (folder / f"{part:02}").iterdir():
                (again / path.name).hardlink_to(path)
    return bad * copies


def _draw_part(folder: Path, part: int, count: int) -> int:
    choice, sources, bad = random.Random(part), photographs(), 0  # noqa: S311
    for number in range(part, count, FOLDERS):
        path = folder / f"{part:02}" / f"{number:07}.jpg"
        picture = cut(choice.choice(sources), choice.choice(SIZES), choice)
        picture.save(path, "JPEG", quality=choice.choice((75, 85, 90, 95)))
        if choice.randrange(BAD_EVERY) == 0:
            data = path.read_bytes()
            path.write_bytes(choice.choice((b"", data[: len(data) // 3], b"no picture", data[200:])))
            bad += 1
    return bad


def watched(command: Sequence[str | Path]) -> tuple[str, list[Sample]]:
    """Runs a command; what it printed, and its memory once a second.

    Raises:
        SystemExit: it ended with an error.
    """
    start, samples = time.perf_counter(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            lines = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
            if lines:  # a process that has just ended has none
                samples.append(Sample(time.perf_counter() - start, int(lines[0].split()[1]) / 1024))
            time.sleep(1.0)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return said, samples


def main() -> int:
    """Draws, extracts, verifies; 1 when memory does not stay level or the counts are others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="different pictures (default: 20,000)")
    parser.add_argument("--copies", type=int, default=2, help="names that each of them has (default: 2)")
    parser.add_argument("--repo", type=Path, help=f"repository that holds {NAME} already")
    parser.add_argument("--work", type=Path, help="folder to write to (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        folder = Path(name)
        repo = args.repo or folder / "models"
        if args.repo is None:
            export(repo)
        bad = draw(folder / "pictures", args.count, copies=args.copies)
        command: list[str | Path] = [BIN / "vitral", "extract", folder / "pictures", "--out", folder / "out"]
        command += ["--model", repo / NAME, "--device", "cpu", "--views", "mean", "--json", "--quiet"]
        said, samples = watched(command)
        summary = json.loads(said)
        verified = [BIN / "vitral", "extract", "verify", folder / "out", "--model", repo / NAME]
        subprocess.run([*verified, "--device", "cpu"], check=True)
    return _tell(args.count * args.copies, bad, summary, samples)


def _tell(count: int, bad: int, summary: dict[str, object], samples: Sequence[Sample]) -> int:
    rows, errors = summary["rows"], summary["errors"]
    print(f"{count} pictures, {bad} damaged: {rows} rows, {errors} errors")
    print(
        f"{summary['images_per_second']} images/s; bottleneck: {summary['bottleneck']}; {summary['stages']}"
    )
    print(
        ", ".join(f"{one.mib:.0f} MiB at second {one.second:.0f}" for one in (*samples[5::15], samples[-1]))
    )
    print(", ".join(f"{name} {value}" for name, value in machine().items()), f"load {os.getloadavg()[0]:.1f}")
    if (rows, errors) != (count - bad, bad):
        print("the counts are not those of the pictures", file=sys.stderr)
        return 1
    later = [one.mib for one in samples if one.second >= SETTLED]
    if not later:
        print(f"memory is not judged: the run took less than {SETTLED:.0f} s", file=sys.stderr)
        return 0
    drift = max(abs(mib - later[0]) for mib in later)
    print(f"after second {SETTLED:.0f} resident memory stays within {drift:.0f} MiB of its value then")
    return int(drift > GOAL)


if __name__ == "__main__":
    sys.exit(main())
