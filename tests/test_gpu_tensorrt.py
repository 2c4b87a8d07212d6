"""TensorRT on a real GPU. Skipped, with what is missing, where it does not work."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import vitral_engine
from vitral.errors import InvalidArgumentError
from vitral_engine import device
from vitral_engine.arrangement import arrange
from vitral_engine.artifact import open_artifact
from vitral_engine.engine import Model
from vitral_engine.image import MAX_PIXELS
from vitral_engine.placement import TENSORRT
from vitral_engine.staging import Staging
from vitral_export.cli import main

MISSING = device.fault("tensorrt", 0)
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no TensorRT: {MISSING}")

OUTPUT = "patch_embeddings"
STAGING = Staging(max_batch=8, instances=2)


def _open(folder: Path, cache: Path) -> Model:
    placement = device.place("tensorrt", cache=cache)
    found, cores = open_artifact(folder), arrange(placement, threads=0, runs=STAGING.instances)
    return Model(found, placement, cores=cores, max_pixels=MAX_PIXELS, staging=STAGING)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def test_the_proof_is_replayed_within_tensorrts_own_budget(base_repo: Path, cache: Path) -> None:
    model = _open(base_repo / "patch-embedding", cache)
    assert model.placement.provider == TENSORRT
    assert 0 < model.replayed.rel_l2 <= model.replayed.rel_l2_budget < 1e-5  # TF32 would be at 1e-4
    assert list(cache.rglob("*.engine"))


def test_the_second_start_takes_its_engines_from_the_folder(base_repo: Path, cache: Path) -> None:
    _open(base_repo / "patch-embedding", cache).close()
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.engine")}
    start = time.perf_counter()
    _open(base_repo / "patch-embedding", cache).close()
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.engine")} == before
    assert before
    print(f"opened from the folder in {time.perf_counter() - start:.1f} s")


def test_other_weights_of_the_same_graph_get_their_own_engines(tmp_path: Path, cache: Path) -> None:
    """Onnxruntime alone would take the first one's engine for the second, and the replay would refuse it."""
    answers = []
    row = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    for seed in ("0", "1"):
        repo = tmp_path / seed / "models"
        sizes = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16", "--seed", seed)
        assert main(["build", "patch-embedding", "--name", "tiny", "--repo", str(repo), *sizes]) == 0
        model = _open(repo / "tiny", cache)
        answers.append(model.session_for([OUTPUT], prepared=False).run(row)[OUTPUT])
        model.close()
    assert np.linalg.norm(answers[0] - answers[1]) > 0.1 * np.linalg.norm(answers[0])


def test_batches_are_the_cpus_answers(base_repo: Path, cache: Path) -> None:
    rows = np.random.default_rng(2).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    cpu = vitral_engine.open(base_repo / "patch-embedding", device="cpu")
    want = cpu.session_for([OUTPUT], prepared=False).run(rows)[OUTPUT]
    model = _open(base_repo / "patch-embedding", cache)
    for count in (1, 3, 5, 8):
        got = model.session_for([OUTPUT], prepared=False).run(rows[:count])[OUTPUT]
        for row in range(count):
            assert np.linalg.norm(got[row] - want[row]) < 5e-6 * np.linalg.norm(want[row])


def test_cuda_graphs_are_refused(base_repo: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="CUDA graphs need device cuda"):
        vitral_engine.open(
            base_repo / "patch-embedding", device="tensorrt", staging=Staging(cuda_graphs=True)
        )
