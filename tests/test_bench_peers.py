"""What the serving benchmark holds vitral against answers right, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving.peers import PEERS, loop, smoke
from benchmarks.serving.peers.process import family
from benchmarks.serving.workload import WORKLOADS


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
