"""How far the answers of two servers are apart, and whether a search among patches would notice."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving import pictures
from benchmarks.serving.measure import Task
from benchmarks.serving.way import Way


@dataclass(frozen=True)
class Drift:
    """Two sets of answers to the same pictures.

    Attributes:
        rel_l2: median over the pictures of the relative L2 distance at the workload's output.
        worst: that of the worst picture.
        neighbours: share of patches whose nearest other patch, by cosine among those of all pictures, is the
            same in both sets.
        pictures: how many there are.
    """

    rel_l2: float
    worst: float
    neighbours: float
    pictures: int


def measure(exact: Way, other: Way, task: Task) -> Drift:
    """Asks both servers for every picture of the task."""
    return between(*(_answers(way, task) for way in (exact, other)))


def between(exact: NDArray[Any], other: NDArray[Any]) -> Drift:
    """The drift from one set of answers (pictures, N, D) to another."""
    ones, others = (array.astype(np.float64) for array in (exact, other))
    gaps = [
        float(np.linalg.norm(new - old) / np.linalg.norm(old)) for old, new in zip(ones, others, strict=True)
    ]
    same = nearest(ones.reshape(-1, ones.shape[-1])) == nearest(others.reshape(-1, ones.shape[-1]))
    return Drift(float(np.median(gaps)), max(gaps), float(same.mean()), len(ones))


def nearest(rows: NDArray[np.float64]) -> NDArray[np.intp]:
    """For each row (N, D) the place of the nearest other one by cosine."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    found: NDArray[np.intp] = alike.argmax(axis=1)
    return found


def _answers(way: Way, task: Task) -> NDArray[Any]:
    every: Sequence[Any] = pictures.load(task.pictures)
    with ExitStack() as stack:
        running = stack.enter_context(way.start(task.repo, task.workload))
        call = stack.enter_context(way.caller(running.address, task.workload))
        return np.stack([np.array(call(picture)) for picture in every])
