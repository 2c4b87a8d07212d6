"""What the engine asks of CUDA's driver and of the providers, and what it says where they are missing."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import numpy as np
import pytest
from cuda_driver import HostDriver

from vitral.errors import ArtifactError, DeviceError, InvalidArgumentError, ProofError
from vitral.v1 import model_pb2 as pb
from vitral_engine import cuda, device, tensorrt
from vitral_engine.artifact import open_artifact
from vitral_engine.buckets import powers
from vitral_engine.device import place
from vitral_engine.placement import CPU, CUDA, TENSORRT, Placement, cuda_options
from vitral_engine.replay import budget_of
from vitral_engine.session import GraphSession, SessionOptions
from vitral_engine.stage import Stage
from vitral_engine.staged import fitted
from vitral_engine.staging import Staging

NO_CUDA = pytest.mark.skipif(device.fault("cuda", 0) is None, reason="CUDA works here")
NO_TENSORRT = pytest.mark.skipif(device.fault("tensorrt", 0) is None, reason="TensorRT works here")
UINT8, FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)


class CpuBound(cuda.CudaMemory):
    """The driver's memory under the CPU's name, so that onnxruntime's CPU runs on it."""

    kind = "cpu"


@pytest.fixture
def driver() -> HostDriver:
    return HostDriver()


@pytest.fixture
def within(driver: HostDriver) -> cuda.Context:
    return cuda.Context(cuda.Driver(driver), 0)


def test_arrays_for_copies_are_page_locked_and_live_as_long_as_their_views(
    driver: HostDriver, within: cuda.Context
) -> None:
    memory = cuda.CudaMemory(within)
    array = memory.host((3, 4), FLOAT32)
    assert array.shape == (3, 4)
    assert not array.any()
    assert driver.live[array.ctypes.data] == "host"
    view = array[1:]
    del array
    gc.collect()
    memory.block(1)
    assert driver.of("host") == 1
    assert not view.any()
    del view
    gc.collect()
    assert driver.of("host") == 1  # not yet: who holds an array last must not free it at that moment
    memory.block(1)
    assert driver.of("host") == 0
    assert driver.depth == 0


def test_copies_go_both_ways_and_blocks_are_freed(driver: HostDriver, within: cuda.Context) -> None:
    memory = cuda.CudaMemory(within)
    block = memory.block(12)
    memory.upload(block.address, np.arange(3, dtype=np.float32))
    back = np.zeros(3, np.float32)
    memory.download(back, block.address)
    assert back.tolist() == [0, 1, 2]
    assert driver.copies == [("up", 12), ("down", 12)]
    del block
    gc.collect()
    kept = memory.block(4)
    assert driver.of("device") == 1
    assert kept.address


def test_an_error_of_the_driver_is_said_with_its_name(driver: HostDriver, within: cuda.Context) -> None:
    memory = cuda.CudaMemory(within)
    driver.failing["cuMemHostAlloc"] = 2
    with pytest.raises(DeviceError, match=r"cuMemHostAlloc failed: CUDA_ERROR_OUT_OF_MEMORY \(2\)"):
        memory.host((2,), FLOAT32)
    assert driver.depth == 0


def test_a_driver_that_is_too_old_is_said() -> None:
    with pytest.raises(DeviceError, match=r"libcuda\.so\.1 has no cuInit: the driver is too old"):
        cuda.Driver(ctypes.CDLL(None))


def test_a_device_is_described_by_name_and_capability(within: cuda.Context) -> None:
    assert within.describe() == "sm90-NVIDIA-Host-1"


def test_a_stage_over_driver_memory_gives_the_plain_results(small_repo: Path, driver: HostDriver) -> None:
    found = open_artifact(small_repo / "tiny")
    graph = next(graph for graph in found.spec.graphs if graph.input.folded)
    file, options = found.folder / graph.file, SessionOptions(threads=1, staging=Staging("on"))
    session = GraphSession(file, graph, found.spec, placement=place("cpu"), options=options)
    assert session.stage is not None
    within = cuda.Context(cuda.Driver(driver), 0)
    rows = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    truth = session.run(rows)
    memories, signature = [CpuBound(within), CpuBound(within)], session.stage._signature
    sessions = [session._session] * 2
    session.stage = Stage(sessions, memories, signature, buckets=powers(8), graphs=True)
    session._free.clear()
    session.warm(8)
    driver.copies.clear()
    got = session.run(rows)
    assert np.array_equal(got["patch_embeddings"], truth["patch_embeddings"])
    up, down = 8 * 32 * 32 * 3, 5 * 16 * 16 * 4  # the padded bucket goes up, the rows of the batch come down
    assert driver.copies == [("up", up), ("down", down)]
    del session, memories
    gc.collect()
    cuda.CudaMemory(within).block(1)
    assert driver.of("device") <= 1
    assert driver.of("host") == 0


@NO_CUDA
@pytest.mark.parametrize("asked", ["cuda", "cuda:1"])
def test_cuda_is_refused_with_the_library_that_is_missing(asked: str) -> None:
    with pytest.raises(DeviceError, match=rf"device {asked} does not work here: .*(lib\w+\.so|CUDA)"):
        place(asked)


@NO_TENSORRT
def test_tensorrt_is_refused_with_the_library_that_is_missing() -> None:
    reason = r"libnvinfer\.so\.\d+.* cannot be opened|no TensorRT provider|lib\w+\.so"
    with pytest.raises(DeviceError, match=rf"device tensorrt:0 does not work here: .*({reason})"):
        place("tensorrt:0")


@pytest.mark.parametrize("asked", ["tensorrt:", "tensorrt:x", "cuda:-1", "TensorRT", "gpu"])
def test_unknown_devices_are_refused_with_the_known_ones(asked: str) -> None:
    with pytest.raises(InvalidArgumentError, match="known are auto, cpu, cuda, cuda:N, tensorrt, tensorrt:N"):
        place(asked)


def test_cuda_runs_in_full_float32_with_convolutions_chosen_at_once() -> None:
    options = {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    placement = Placement(CUDA, "cuda:1", cuda_options(1))
    assert placement.providers == [(CUDA, options), (CPU, {})]
    assert placement.index == 1


def test_tensorrt_runs_in_float32_before_cuda_and_the_cpu() -> None:
    placement = Placement(TENSORRT, "tensorrt:1", tensorrt.options(1))
    (first, options), second, third = placement.providers
    assert (first, second, third) == (TENSORRT, (CUDA, cuda_options(1)), (CPU, {}))
    assert {options[f"trt_{kind}_enable"] for kind in ("fp16", "bf16", "int8")} == {"0"}
    assert options["trt_engine_cache_enable"] == "1"


def test_cuda_graphs_are_one_option_of_the_sessions_that_want_them(small_repo: Path) -> None:
    spec = open_artifact(small_repo / "tiny").spec
    placement = Placement(CUDA, "cuda:0", cuda_options(0))
    plain = fitted(placement, Staging(), spec, spec.graphs[0], level="all")
    graphs = fitted(placement, Staging(cuda_graphs=True), spec, spec.graphs[0], level="all")
    assert plain == placement
    assert graphs.options == {**placement.options, "enable_cuda_graph": "1"}


def test_every_option_is_one_that_the_provider_knows() -> None:
    """Onnxruntime refuses a session for a name it does not know; the names stand in the libraries."""
    folder = Path(device.ort.__file__).parent / "capi"
    asked = {"cuda": {**cuda_options(0), "enable_cuda_graph": "1"}, "tensorrt": tensorrt.options(0)}
    asked["tensorrt"] |= {"trt_engine_cache_path": "", "trt_timing_cache_path": ""}
    for kind, options in asked.items():
        file = folder / f"libonnxruntime_providers_{kind}.so"
        if not file.exists():
            pytest.skip(f"{file.name} is missing: the runtime is not onnxruntime-gpu")
        data = file.read_bytes()
        assert [name for name in options if f"\0{name}\0".encode() not in data] == []


def test_engines_of_other_weights_graphs_and_gpus_have_folders_of_their_own(
    small_repo: Path, tmp_path: Path, driver: HostDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "_version", lambda: 101300)
    monkeypatch.setattr(cuda, "context", lambda index: cuda.Context(cuda.Driver(driver), index))
    spec = open_artifact(small_repo / "tiny").spec
    placement = Placement(TENSORRT, "tensorrt:0", tensorrt.options(0), tmp_path)
    other = pb.ModelSpec.FromString(spec.SerializeToString())
    other.fingerprint = "0" * 64
    found = [
        tensorrt.kept(placement, one, graph, level=level, max_batch=batch)
        for one in (spec, other)
        for graph in spec.graphs
        for level, batch in (("all", 32), ("basic", 32), ("all", 8))
    ]
    folders = [Path(kept.options["trt_engine_cache_path"]) for kept in found]
    assert len(set(folders)) == len(folders) == 12
    assert all(folder.is_dir() and folder.is_relative_to(tmp_path) for folder in folders)
    assert "trt101300-sm90-NVIDIA-Host-1" in folders[0].name
    assert spec.fingerprint.startswith(folders[0].parent.name)


def test_the_folder_of_engines_is_the_operators_or_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tensorrt.cache_folder() == tmp_path / "vitral/tensorrt"
    monkeypatch.setenv("VITRAL_TENSORRT_CACHE", "/engines")
    assert tensorrt.cache_folder() == Path("/engines")


def test_tensorrt_is_held_to_its_own_budget_or_twice_the_general_one(small_repo: Path) -> None:
    spec = open_artifact(small_repo / "tiny").spec
    figure = spec.proof.figures[0]
    general = budget_of(spec, figure.graph, figure.output, CPU)
    assert budget_of(spec, figure.graph, figure.output, CUDA) == general
    granted = budget_of(spec, figure.graph, figure.output, TENSORRT)
    assert granted.rel_l2 == 2 * general.rel_l2
    assert granted.max_abs == 2 * general.max_abs
    assert granted.rel_l2 < 2.0**-12  # TF32 rounds every product by up to 2^-11
    spec.proof.figures.add(
        graph=figure.graph, output=figure.output, provider=TENSORRT, rel_l2_budget=3e-7, max_abs_budget=1e-6
    )
    own = budget_of(spec, figure.graph, figure.output, TENSORRT)
    assert (own.rel_l2, own.max_abs) == (3e-7, 1e-6)
    assert budget_of(spec, figure.graph, figure.output, CUDA) == general
    with pytest.raises(ProofError, match="no budget for tokens"):
        budget_of(spec, figure.graph, "tokens", TENSORRT)


@NO_CUDA
def test_a_session_that_does_not_open_on_cuda_says_why_and_opens_nowhere_else(
    small_repo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = open_artifact(small_repo / "tiny")
    graph = found.spec.graphs[0]
    placement = Placement(CUDA, "cuda:0", cuda_options(0))
    said = r"onnxruntime cannot open|opened on CPUExecutionProvider, not on"
    with pytest.raises(ArtifactError, match=said):
        GraphSession(found.folder / graph.file, graph, found.spec, placement=placement)
    assert "Falling back" not in capfd.readouterr().out
