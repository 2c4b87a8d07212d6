"""The engine in process, one picture a call: what a request costs without any request.

python -m benchmarks.serving.embedded --repo models-bench --workload W4 --pictures FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vitral_engine
from benchmarks.serving import load, pictures
from benchmarks.serving.way import Picture
from benchmarks.serving.workload import WORKLOADS, Workload, viewed


class Embedded:
    """`Model.embed` as a call."""

    def __init__(self, repo: Path, workload: Workload) -> None:
        self._model = vitral_engine.open(repo / workload.model, device="cpu")
        self._workload = workload

    def __call__(self, picture: Picture) -> NDArray[Any]:
        """A picture to its output."""
        wanted = self._workload
        [found] = self._model.embed([picture], outputs=[wanted.output], dtype=wanted.dtype)
        return viewed(found.outputs[wanted.output], wanted)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", required=True, type=Path)
    parser.add_argument("--workload", required=True, choices=WORKLOADS)
    parser.add_argument("--pictures", required=True, type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--answers", type=Path, help="file for the first answers")
    args = parser.parse_args(argv)
    every = pictures.load(args.pictures)
    call, turn = Embedded(args.repo, WORKLOADS[args.workload]), pictures.rotation(every)
    if args.answers:
        np.save(args.answers, load.answers(call, every))
    load.closed(call, turn, callers=1, seconds=args.seconds / 5)
    told = load.measured(
        call, lambda: load.closed(call, turn, callers=1, seconds=args.seconds), [os.getpid()]
    )
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
