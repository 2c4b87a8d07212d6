"""Both nets over a version folder, each asked by itself."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.faults.models import Sound
from vitral.errors import ProofError
from vitral_engine.device import place
from vitral_export import numbers, structure, verify


class Nets:
    """The nets for one model, with what they know of its module: its steps, its float64 outputs."""

    def __init__(self, sound: Sound) -> None:
        self._spec = sound.spec
        self._own = {
            size: structure.read(sound.wrapped, sound.spec, size=size)
            for size in structure.compared(sound.spec)
        }
        self._references = verify.references_of(sound.spec, sound.wrapped)

    def caught(self, folder: Path) -> dict[str, set[str]]:
        """The files in which each net finds something."""
        problems = [
            problem
            for size, own in self._own.items()
            for problem in structure.compare(folder, self._spec, own, size=size)
        ]
        wrong = {graph.file for graph in self._spec.graphs if self._numbers(folder, graph.file)}
        return {"structure": {re.split(":| at ", problem)[0] for problem in problems}, "numbers": wrong}

    def _numbers(self, folder: Path, file: str) -> bool:
        """Whether the numeric net finds something in a graph; it stops at the first."""
        graph = next(graph for graph in self._spec.graphs if graph.file == file)
        runs = numbers.check(folder, graph, self._spec, self._references[file], [place("cpu")])
        try:
            return any(run.problem for run in runs)
        except ProofError:
            return True
