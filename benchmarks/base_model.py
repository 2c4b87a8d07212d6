"""The ViT-B/16 patch embedding that benchmarks measure, exported with random weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAME = "patch-embedding"
SEED = 0


def export(repo: Path, source: str = NAME, *, name: str = NAME, outputs: str = "") -> None:
    """Builds a model, random weights of a fixed seed.

    Raises:
        SystemExit: the export failed.
    """
    command = [sys.executable, "-m", "vitral_export", "build", source, "--name", name, "--repo", str(repo)]
    chosen = ["--outputs", outputs] if outputs else []
    line = [*command, "--seed", str(SEED), *chosen]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the export ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
