"""Triton beside vitral, both on one repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from asking import Asker, asker
from benchmarks.serving.peers import tritonserver
from serving import Running


class Servers(NamedTuple):
    """Who asks which."""

    vitral: Asker
    triton: Asker


def need() -> None:
    """Skips the module that calls it where Triton is not to be asked."""
    if "VITRAL_TRITON" not in os.environ:
        told = "VITRAL_TRITON is not set: `make test-triton` sets it, and asks Triton"
        pytest.skip(tritonserver.missing() or told, allow_module_level=True)


@contextmanager
def beside(vitral: Running, repo: Path, *options: str) -> Iterator[Servers]:
    """Triton on the repository of a server that runs; neither changes a file of it."""
    if missing := tritonserver.missing():
        pytest.fail(missing)
    before = _files(repo)
    with (
        tritonserver.running(repo, *options) as triton,
        asker(vitral.address) as one,
        asker(triton.address) as other,
    ):
        yield Servers(one, other)
    assert _files(repo) == before


def _files(repo: Path) -> list[tuple[str, int]]:
    return [(str(path), path.stat().st_mtime_ns) for path in sorted(repo.rglob("*"))]
