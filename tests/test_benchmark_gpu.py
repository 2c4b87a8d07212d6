"""The benchmark of GPUs runs, as far as a CPU lets it, and both targets say plainly what they need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import gpu

from vitral_engine import device

ROOT = Path(__file__).resolve().parent.parent
NO_CUDA = pytest.mark.skipif(device.fault("cuda", 0) is None, reason="CUDA works here")


def test_the_benchmark_measures_every_bucket_and_setting(small_repo: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    flags = ("--device", "cpu", "--max-batch", "4", "--seconds", "0.01", "--json", str(file))
    assert gpu.main([str(small_repo / "tiny"), *flags]) == 0
    figures = json.loads(file.read_text())
    assert len(figures["rows"]) == 4  # two graphs, one and two instances
    for row in figures["rows"]:
        assert sorted(row["images_per_s"]) == ["1", "2", "4"]
        assert min(row["images_per_s"].values()) > 0
        assert 0 < row["rel_l2"] < 1e-5
    assert "cpu" in figures["machine"]


@NO_CUDA
def test_without_a_gpu_the_benchmark_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith("bench-gpu: device cuda does not work here: ")
    assert said.count("\n") == 1


@NO_CUDA
def test_without_a_gpu_the_targets_end_with_one_line_that_says_what_they_need() -> None:
    line = [sys.executable, str(ROOT / "tools/need_gpu.py")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("this needs an NVIDIA GPU with its driver, CUDA and cuDNN (RUNTIME=cuda ")
    makefile = (ROOT / "Makefile").read_text()
    for target in ("test-gpu", "bench-gpu"):
        first = makefile.split(f"\n{target}: ")[1].splitlines()[1]
        assert first == "\t@$(BIN)/python tools/need_gpu.py"
