"""Outputs that need only a part of the module have graphs of their own, over the same weights."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import vit_checkpoints
from benchmarks.faults.planting import Written
from onnx import TensorProto, helper
from safetensors.numpy import load_file

import vitral_engine
from vitral import spec as specs
from vitral.errors import ArtifactError
from vitral.limits import MAX_REPLY_BYTES
from vitral.v1 import model_pb2 as pb
from vitral_engine import triton
from vitral_engine.artifact import open_artifact
from vitral_engine.device import place
from vitral_engine.session import GraphSession
from vitral_export import build, numbers, sources, structure, subgraphs, verify
from vitral_export.loaded import Loaded, Options
from vitral_export.onnx_graph import FLOAT_FILE
from vitral_export.wrap import Inference
from vitral_server import registry
from vitral_server.call import Door, EmbedCall, Picture, Wanted
from vitral_server.config import ServerConfig
from vitral_server.plan import plan

PATCHES, TOKENS, HIDDEN = "patch_embeddings", "embeddings", "last_hidden_state"
FILES = [
    "model_uint8_patch_embeddings.onnx",
    "model_patch_embeddings.onnx",
    "model_uint8_embeddings.onnx",
    "model_embeddings.onnx",
    "model_uint8.onnx",
    "model.onnx",
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A Vision Transformer of one layer."""
    folder = tmp_path_factory.mktemp("subgraphs") / "checkpoint"
    return sources.load(
        f"hf:{vit_checkpoints.save(folder, vit_checkpoints.model(vit_checkpoints.OTHER))}", Options()
    )


@pytest.fixture(scope="module")
def installed(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its version folder. Read only."""
    return build.build(loaded, name="vit", repo=tmp_path_factory.mktemp("repo")).path


@pytest.fixture(scope="module")
def spec(installed: Path) -> pb.ModelSpec:
    return open_artifact(installed).spec


def chain(outputs: Sequence[int], *, fork: bool = False) -> onnx.ModelProto:
    """Twelve equal products in a row, of which these give outputs; a fork leaves after the first."""
    weight = onnx.numpy_helper.from_array(np.zeros((100, 100), np.float32), "w")
    steps = [helper.make_node("MatMul", [f"r{at}", "w"], [f"r{at + 1}"], f"n{at}") for at in range(12)]
    names = [f"r{at}" for at in outputs]
    if fork:
        steps.append(helper.make_node("MatMul", ["r1", "w"], ["fork"], "off"))
        names.append("fork")
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 100]) for name in ("r0", *names)
    ]
    return helper.make_model(helper.make_graph(steps, "chain", infos[:1], infos[1:], [weight]))


def test_a_graph_of_its_own_leaves_out_a_quarter_or_there_is_none() -> None:
    twelve = subgraphs.parts(chain(range(1, 13)), (1, 100))
    assert list(twelve) == [f"r{at}" for at in range(1, 10)]
    assert twelve["r3"] == ("r1", "r2", "r3")
    assert subgraphs.parts(chain([12]), (1, 100)) == {}
    assert subgraphs.parts(chain([10, 12]), (1, 100)) == {}
    assert subgraphs.parts(chain([12, 2]), (1, 100)) == {"r2": ("r2",)}


def test_outputs_share_a_graph_where_a_second_one_would_save_little() -> None:
    def found(width: int, *, encoder: bool) -> dict[str, tuple[str, ...]]:
        """A projection, a sum behind it, and, where there is one, a hundred products."""
        weight = onnx.numpy_helper.from_array(np.zeros((width, width), np.float32), "w")
        steps = [
            helper.make_node("MatMul", ["x", "w"], ["patches"]),
            helper.make_node("Add", ["patches", "x"], ["r0"]),
        ]
        steps += [helper.make_node("MatMul", [f"r{at}", "w"], [f"r{at + 1}"]) for at in range(100 * encoder)]
        names = ["x", "patches", "r0", *(["r100"] if encoder else [])]
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in names]
        model = helper.make_model(helper.make_graph(steps, "g", infos[:1], infos[1:], [weight]))
        return subgraphs.parts(model, (1, width))

    assert found(100, encoder=True) == {"patches": ("patches",), "r0": ("patches", "r0")}
    assert found(2000, encoder=True) == {"r0": ("patches", "r0")}  # the sum is 2 % of it
    assert found(100, encoder=False) == {}  # the sum is a fifth of the time, and no product


def test_what_an_output_does_not_need_is_not_in_its_graph() -> None:
    forked = chain([1, 4, 12], fork=True)
    found = subgraphs.parts(forked, (1, 100))
    # Twelve of thirteen save too little.
    assert found == {"r1": ("r1",), "fork": ("r1", "fork"), "r4": ("r1", "r4")}
    small = subgraphs.cut(forked, ("r1", "fork"))
    onnx.checker.check_model(small, full_check=True)
    assert [node.name for node in small.graph.node] == ["n0", "off"]
    assert [item.name for item in small.graph.output] == ["r1", "fork"]
    assert len(forked.graph.node) == 13


def test_files_are_named_for_the_output_and_never_twice() -> None:
    assert subgraphs.file_of("model.onnx", "hidden_states.3", taken=[]) == "model_hidden_states.3.onnx"
    assert subgraphs.file_of("model.onnx", "uint8", taken=["model_uint8.onnx"]) == "model_uint8_2.onnx"
    assert subgraphs.file_of("model.onnx", "../é", taken=[]) == "model_..__.onnx"


def test_every_request_finds_the_cheapest_graph_that_covers_it(spec: pb.ModelSpec) -> None:
    assert [graph.file for graph in spec.graphs] == FILES
    wanted = {
        (PATCHES,): "_patch_embeddings",
        (TOKENS,): "_embeddings",
        (TOKENS, PATCHES): "_embeddings",
        (HIDDEN,): "",
        (HIDDEN, PATCHES): "",
    }
    for outputs, part in wanted.items():
        assert specs.cheapest_graph(spec, outputs, pixels=True).file == f"model_uint8{part}.onnx"
        assert specs.cheapest_graph(spec, outputs, pixels=False).file == f"model{part}.onnx"
    assert specs.main_graph(spec).file == "model_uint8.onnx"
    assert specs.float_graph(spec).file == specs.plain_graph(spec).file == FLOAT_FILE


def test_triton_is_given_the_whole_graph(installed: Path, spec: pb.ModelSpec) -> None:
    config = triton.read(installed.parent, spec)
    assert config.default_model_filename == FLOAT_FILE
    assert {item.name for item in config.output} == {item.name for item in spec.outputs}


def test_weights_and_goldens_are_stored_once(installed: Path, spec: pb.ModelSpec) -> None:
    places: dict[str, set[tuple[int, int]]] = {}
    for graph in spec.graphs:
        model = onnx.load(installed / graph.file, load_external_data=False)
        told = [{item.key: item.value for item in held.external_data} for held in model.graph.initializer]
        places[graph.file] = {(int(item["offset"]), int(item["length"])) for item in told if item}
    every = set().union(*places.values())
    pages = sum(-(-length // 4096) * 4096 for _, length in every)
    size = (installed / "weights.bin").stat().st_size
    assert pages - 4096 < size <= pages
    for form in ("model", "model_uint8"):
        assert (
            places[f"{form}_patch_embeddings.onnx"]
            < places[f"{form}_embeddings.onnx"]
            < places[f"{form}.onnx"]
        )
    golden = load_file(installed / "golden.safetensors")
    assert {key.partition("/")[0] for key in golden} == {"model.onnx", "model_uint8.onnx"}


def test_tensors_of_equal_bytes_are_one(installed: Path) -> None:
    model = onnx.load(installed / FLOAT_FILE, load_external_data=False)
    offsets = {
        held.name: {item.key: item.value for item in held.external_data}.get("offset")
        for held in model.graph.initializer
    }
    values = {
        item.name: onnx.numpy_helper.to_array(item).tobytes()
        for item in onnx.load(installed / FLOAT_FILE).graph.initializer
    }
    stored = {name: offset for name, offset in offsets.items() if offset is not None}
    assert len(set(stored.values())) == len({values[name] for name in stored})


def test_every_part_is_proven(spec: pb.ModelSpec) -> None:
    assert {(item.graph, item.output) for item in spec.proof.figures} == {
        (graph.file, name) for graph in spec.graphs for name in graph.outputs
    }
    for figure in spec.proof.figures:
        assert 0 < figure.rel_l2 <= figure.rel_l2_budget


def test_a_fault_in_a_part_is_caught_by_both_nets(
    installed: Path, spec: pb.ModelSpec, loaded: Loaded, tmp_path: Path
) -> None:
    wrapped, file = Inference(loaded), "model_embeddings.onnx"
    spoiled = Path(shutil.copytree(installed, tmp_path / "vit" / "1"))
    written = Written(spoiled, file)
    adding = next(node for node in written.graph.node if node.op_type == "Add")
    adding.op_type = "Sub"
    written.save()
    [problem] = structure.check(spoiled, spec, wrapped)
    assert problem.startswith(f"{file}: ")
    references = verify.references_of(spec, wrapped)
    for graph in spec.graphs[2:4]:
        runs = numbers.check(spoiled, graph, spec, references[graph.file], [place("cpu")])
        first = next((run.problem for run in runs if run.problem), "")
        assert (f"{TOKENS} of" in first) is (graph.file == file)
    with pytest.raises(ArtifactError, match=f"{file} has sha256"):
        open_artifact(spoiled)


def test_a_part_that_gives_another_output_is_caught(
    installed: Path, spec: pb.ModelSpec, loaded: Loaded, tmp_path: Path
) -> None:
    spoiled = Path(shutil.copytree(installed, tmp_path / "vit" / "1"))
    whole = onnx.load(installed / FLOAT_FILE, load_external_data=False)
    other = subgraphs.cut(whole, (HIDDEN,))
    (spoiled / "model_embeddings.onnx").write_bytes(other.SerializeToString())
    told = structure.check(spoiled, spec, Inference(loaded))
    assert any("3 were asked for" in problem for problem in told)
    assert all(problem.startswith("model_embeddings.onnx: ") for problem in told)


def test_parts_belong_to_the_identity(spec: pb.ModelSpec) -> None:
    for graph in spec.graphs:
        other = dict(spec.sha256) | {graph.file: "0" * 64}
        assert specs.identity(spec, other) != specs.identity(spec, spec.sha256) == spec.fingerprint


def test_the_engine_runs_the_part(installed: Path) -> None:
    model = vitral_engine.open(installed, device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    [alone] = model.embed([picture], outputs=[PATCHES])
    [whole] = model.embed([picture], outputs=[HIDDEN, PATCHES])
    assert list(alone.outputs) == [PATCHES]
    np.testing.assert_allclose(alone.outputs[PATCHES], whole.outputs[PATCHES], rtol=0, atol=1e-5)
    session = model.session_for([PATCHES], prepared=False)
    assert isinstance(session, GraphSession)
    assert session.graph.file == FILES[0]


def test_every_door_of_the_server_leads_to_the_part(installed: Path) -> None:
    served = registry.load(ServerConfig(repo=installed.parent.parent, device="cpu"), place("cpu"))

    def file(door: Door, *outputs: str) -> str:
        pictures = (Picture(door, b""),)
        wanted = tuple(map(Wanted, outputs))
        call = EmbedCall("vit", "", pictures, wanted, None, MAX_REPLY_BYTES, "", 0)
        return plan(call, served).sessions[door].graph.file

    try:
        assert list(served.models[0].batchers) == FILES
        for door in Door:
            form = "model" if door in (Door.PREPARED, Door.TENSOR) else "model_uint8"
            assert file(door, PATCHES) == f"{form}_patch_embeddings.onnx"
            assert file(door, PATCHES, TOKENS) == f"{form}_embeddings.onnx"
            assert file(door) == file(door, HIDDEN, PATCHES) == f"{form}.onnx"
    finally:
        served.close()
