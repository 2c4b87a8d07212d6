"""On a real GPU: what tests of the CPU can only build. Skipped, with what is missing, where there is none."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from photographs import ROCKET
from serving import running

import vitral_engine
from vitral_client import Client
from vitral_engine import cuda, device, goldens
from vitral_engine.artifact import open_artifact
from vitral_engine.engine import Model
from vitral_engine.measure import errors
from vitral_engine.session import GraphSession, SessionOptions
from vitral_engine.staging import Staging

MISSING = device.fault("cuda", 0)
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no CUDA: {MISSING}")

OUTPUT = "patch_embeddings"
COUNT = 200
STAGINGS = {
    "plain": Staging(max_batch=20),
    "two instances": Staging(max_batch=20, instances=2),
    "graphs": Staging(max_batch=20, cuda_graphs=True),
    "graphs, two instances": Staging(max_batch=20, cuda_graphs=True, instances=2),
    "exact sizes": Staging(max_batch=20, buckets="off"),
}


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (COUNT, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def truth(base_repo: Path, inputs: np.ndarray) -> np.ndarray:
    """The CPU's answers."""
    model = vitral_engine.open(base_repo / "patch-embedding", device="cpu")
    session = model.session_for([OUTPUT], prepared=False)
    found = np.concatenate([session.run(inputs[i : i + 20])[OUTPUT] for i in range(0, COUNT, 20)])
    model.close()
    return found


@pytest.fixture(scope="module", params=STAGINGS)
def model(base_repo: Path, request: pytest.FixtureRequest) -> Iterator[Model]:
    opened = vitral_engine.open(base_repo / "patch-embedding", device="cuda", staging=STAGINGS[request.param])
    yield opened
    opened.close()


def _session(model: Model) -> GraphSession:
    return model.session_for([OUTPUT], prepared=False)


def _far(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def test_the_proof_is_replayed_on_cuda_within_its_budget(model: Model) -> None:
    assert model.placement.provider == "CUDAExecutionProvider"
    assert 0 < model.replayed.rel_l2 <= model.replayed.rel_l2_budget < 1e-5


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 20, 33])
def test_padded_batches_are_the_cpus_answers(
    model: Model, inputs: np.ndarray, truth: np.ndarray, count: int
) -> None:
    got = _session(model).run(inputs[:count])[OUTPUT]
    assert got.shape == truth[:count].shape
    for row in range(count):
        assert _far(got[row], truth[row]) < 5e-6, f"row {row}"


def test_no_caller_ever_gets_the_result_of_another(
    model: Model, inputs: np.ndarray, truth: np.ndarray
) -> None:
    """The fault that CUDA graphs bring where addresses are bound anew: the first caller's result for all."""
    session = _session(model)

    def caller(seed: int) -> list[tuple[int, float]]:
        random, wrong = np.random.default_rng(seed), []
        for _ in range(150):
            pick = random.integers(0, COUNT, random.integers(1, 21))
            with session.lease(len(pick)) as buffers:
                buffers.input[: len(pick)] = inputs[pick]
                session.run_bound(buffers, len(pick))
                far = [_far(buffers.outputs[OUTPUT][i], truth[one]) for i, one in enumerate(pick)]
            wrong += [(int(one), gap) for one, gap in zip(pick, far, strict=True) if not gap < 5e-6]
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert [found for wrong in pool.map(caller, range(8)) for found in wrong] == []


def test_every_bucket_of_every_instance_is_captured_when_graphs_are_asked_for(model: Model) -> None:
    session = _session(model)
    assert session.stage is not None
    staging = session.stage.lanes
    for lane in staging:
        graphs = lane._hand is not None
        assert lane.captured == (session.buckets if graphs else ())
    assert len({id(lane._session) for lane in staging}) == len(staging)  # a session each


def test_host_arrays_are_page_locked(model: Model) -> None:
    flags = ctypes.c_uint()
    with _session(model).lease(4) as buffers, cuda.context(0).current():
        for array in (buffers.input, *buffers.outputs.values()):
            at = ctypes.c_void_p(array.ctypes.data)
            assert ctypes.CDLL(cuda.LIBRARY).cuMemHostGetFlags(ctypes.byref(flags), at) == 0


def test_tf32_is_off_and_would_be_seen(base_repo: Path) -> None:
    if int(cuda.context(0).describe()[2:].split("-")[0]) < 80:
        pytest.skip("this GPU has no TF32: compute capability 8.0 is needed")
    found = open_artifact(base_repo / "patch-embedding")
    known = goldens.load(found.folder, found.spec)
    graph = found.spec.graphs[0]

    def error(tf32: str) -> float:
        placement = device.place("cuda")
        placement = replace(placement, options=placement.options | {"use_tf32": tf32})
        options = SessionOptions(staging=Staging(max_batch=4))
        file = found.folder / graph.file
        session = GraphSession(file, graph, found.spec, placement=placement, options=options)
        got = session.run(known.inputs[graph.file])
        return errors(got[OUTPUT], known.outputs[graph.file, OUTPUT]).rel_l2

    assert error("0") < 5e-6
    assert error("1") > 1e-5


@pytest.mark.parametrize("graphs", ["off", "on"])
def test_a_server_answers_many_callers_from_cuda(base_repo: Path, tmp_path: Path, graphs: str) -> None:
    flags = ("--device", "cuda", "--cuda-graphs", graphs, "--instances", "2", "--max-batch-size", "8")
    local = vitral_engine.open(base_repo / "patch-embedding", device="cpu")
    pixels = np.random.default_rng(6).integers(0, 256, (32, 224, 224, 3), dtype=np.uint8)
    want = [found.patches for found in local.embed(list(pixels))]
    with running(base_repo, *flags, log=tmp_path / "log") as server, Client(server.address) as client:
        assert server.told["device"] == "cuda:0"
        assert client.embed(ROCKET).patches.shape == (196, 768)
        with ThreadPoolExecutor(16) as pool:
            picks = list(np.random.default_rng(7).integers(0, 32, 500))
            got = list(pool.map(lambda one: client.embed(pixels[one]).patches, picks))
        assert max(_far(found, want[one]) for found, one in zip(got, picks, strict=True)) < 5e-6
        assert server.stop() == 0
