"""The demo agrees with PyTorch, and would notice if it did not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_demo_runs_and_agrees(tmp_path: Path) -> None:
    command = [sys.executable, str(DEMO), "--repo", str(tmp_path / "models")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "RANDOM WEIGHTS, SEED 0" in done.stdout
    assert "AGREE: all 6 photographs" in done.stdout
    assert "DISAGREE" not in done.stdout


@pytest.mark.parametrize("fault", [np.nan, np.inf, 1e-3])
def test_one_wrong_element_is_a_disagreement(demo: ModuleType, fault: float) -> None:
    [path] = [path for path in demo.photographs() if path.name == "rocket.jpg"]
    right = demo.in_torch(demo.module(), demo.pixel_values(path))[0]
    wrong = right.copy()
    wrong[100, 300] += fault

    good, bad = demo.compare(path, right), demo.compare(path, wrong)

    assert good.agrees
    assert not bad.agrees
    assert demo.verdict([good], weights="random weights, seed 0") == 0
    assert demo.verdict([good, bad], weights="random weights, seed 0") == 1


def test_a_tensor_of_another_shape_ends_the_demo(demo: ModuleType) -> None:
    path = demo.photographs()[0]

    with pytest.raises(SystemExit, match=r"rocket\.jpg: vitral gave"):
        demo.compare(path, np.zeros((195, 768), np.float32))


def test_the_module_of_the_seed_leaves_the_generator_alone(demo: ModuleType) -> None:
    before = torch.random.get_rng_state()
    first, second = demo.module(), demo.module()

    assert torch.equal(first.projection.weight, second.projection.weight)
    assert torch.equal(before, torch.random.get_rng_state())
