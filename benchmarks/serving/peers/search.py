"""The best arrangement of a peer on one workload: stage by stage, the best so far varied in a few fields."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.serving.peers import litserve, smoke, triton, triton_repository
from benchmarks.serving.peers.smoke import Material, Result
from benchmarks.serving.way import Way


@dataclass(frozen=True)
class Space:
    """What is tried.

    Attributes:
        way: makes the way of an arrangement.
        start: the arrangement to begin with.
        stages: fields that are varied together, with their values.
    """

    way: Callable[[Any], Way]
    start: Any
    stages: Sequence[Mapping[str, Sequence[object]]]


SPACES: Mapping[str, Space] = MappingProxyType(
    {
        "triton": Space(
            triton.Triton,
            triton_repository.Arrangement(),
            (
                {"instances": (1, 2, 3), "batching": (True, False)},
                {"threads": (1, 2)},
                {"graph": ("model_uint8.onnx", "model.onnx")},
            ),
        ),
        "litserve": Space(
            litserve.LitServe,
            litserve.Arrangement(),
            ({"workers": (1, 2), "threads": (1, 2)}, {"fast_queue": (True, False)}),
        ),
    }
)
"""By name of the way."""


def search(name: str, repo: Path, material: Material, *, callers: int, seconds: float) -> list[Result]:
    """Measures the arrangements of a way, each told on stderr when it is done; best first."""
    space = SPACES[name]
    best, seen = space.start, dict[Any, Result]()
    for stage in space.stages:
        for values in product(*stage.values()):
            tried = replace(best, **dict(zip(stage, values, strict=True)))
            if tried in seen:
                continue
            one = smoke.run(space.way(tried), repo, material, callers=callers, seconds=seconds)
            seen[tried] = one
            print(
                f"{one.images_per_s:.0f} images/s, {one.server_ms:.2f} ms: {tried}",
                file=sys.stderr,
                flush=True,
            )
        best = max(seen, key=lambda one: seen[one].images_per_s)
    return sorted(seen.values(), key=lambda result: -result.images_per_s)
