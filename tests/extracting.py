"""Small sources, and runs of `vitral extract` in this process and in others."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from vitral_extract.embedder import InProcess
from vitral_extract.outlook import Outlook, Wanted
from vitral_extract.run import Done, extract
from vitral_extract.work import Work

TINY = ("--shard-rows", "8", "--batch", "4", "--workers", "2", "--quiet")
"""Arguments of a run with many small shards."""

ENTRY = "[vitral.commands]\nextract = vitral_extract.command:extract\n"


def entry(folder: Path) -> Path:
    """A folder to put on the path that brings the command, also where an older vitral is installed."""
    info = folder / "vitral_extract-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vitral-extract\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY)
    return folder


def pictures(folder: Path, count: int, *, bad: Sequence[int] = ()) -> Path:
    """JPEGs of mixed size, named by number; those that are bad are cut short, empty or no picture."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)  # noqa: S311
    for number in range(count):
        size = (draw.randint(20, 60), draw.randint(20, 60))
        noise = np.frombuffer(draw.randbytes(12), np.uint8).reshape(2, 2, 3)
        picture = Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR)
        picture.save(folder / f"{number:05}.jpg", quality=90)
    for place, number in enumerate(bad):
        path = folder / f"{number:05}.jpg"
        data = path.read_bytes()
        path.write_bytes((data[:-20], b"", b"no picture")[place % 3])
    return folder


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.outlook: Outlook | None = None

    def listed(self, count: int) -> None:
        self.counts.append(count)

    def seen(self, work: Work, outlook: Outlook) -> None:
        self.outlook = outlook


def run(out: Path, model: Path, wanted: Wanted, *, workers: int = 2) -> Done:
    """One run in this process, through the engine."""
    embedder = InProcess(model, device="cpu", workers=workers)
    try:
        return extract(out, wanted, embedder, Silent())
    finally:
        embedder.close()


def wanted(source: Path, **more: object) -> Wanted:
    """A run of many small shards."""
    return replace(Wanted(sources=(str(source),), batch=4, shard_rows=8), **more)  # type: ignore[arg-type]


def scaled(repo: Path, factor: float) -> Path:
    """A model whose outputs are this much larger."""
    import torch  # slow, and not needed by the processes that import this

    from vitral_export import export
    from vitral_export.modules import PatchEmbedding

    torch.manual_seed(0)
    module = PatchEmbedding(img_size=32, patch_size=8, embed_dim=16)
    with torch.no_grad():
        module.projection.weight.mul_(factor)
    export(module, name="tiny", repo=repo)
    return repo / "tiny"


def start(path: Path, *arguments: str | Path, **streams: int) -> subprocess.Popen[str]:
    """`vitral extract` in a process of its own; `path` is a folder of `entry`."""
    return subprocess.Popen(
        [sys.executable, "-m", "vitral_client", "extract", *map(str, arguments)],
        env=environ(path),
        text=True,
        stdin=streams.get("stdin", subprocess.DEVNULL),
        stdout=streams.get("stdout", subprocess.DEVNULL),
        stderr=streams.get("stderr", subprocess.PIPE),
    )


def environ(path: Path) -> dict[str, str]:
    """The environment of a process that finds this code, and the command in a folder of `entry`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), *(part for part in sys.path if part)])}


def finished(process: subprocess.Popen[str], within: float = 120.0) -> tuple[int, str, str]:
    """Exit code and what was said."""
    out, error = process.communicate(timeout=within)
    return process.returncode, out or "", error or ""


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file of a data set but the manifest, which has times in it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
