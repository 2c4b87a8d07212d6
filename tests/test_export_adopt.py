"""ONNX files that others exported: held to their PyTorch reference, or installed as unproven."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import onnx
import onnx_files
import pytest
import torch
import vit_checkpoints as vits
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

import vitral_engine
from vitral.errors import InvalidArgumentError, ProofError
from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import open_artifact, sha256_file
from vitral_export import adopt
from vitral_export.cli import main
from vitral_export.loaded import Options


@dataclass(frozen=True)
class Files:
    """One small ViT as a checkpoint and as others' ONNX files of it."""

    vit: Path
    legacy: Path
    dynamo: Path
    fused: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("others") / "vit"
    onnx_files.checkpoint(folder)
    legacy = onnx_files.legacy(folder / "legacy.onnx")
    dynamo = onnx_files.dynamo(folder / "dynamo.onnx")
    fused = onnx_files.optimised(legacy, folder / "fused.onnx")
    return Files(folder, legacy, dynamo, fused)


@pytest.fixture(scope="module")
def unproven(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the legacy file, adopted without a reference."""
    repo = tmp_path_factory.mktemp("unproven") / "models"
    adopt(files.legacy, name="vit", repo=repo)
    return repo


def changed(file: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of a file, and of what lies beside it, with a fault in it."""
    shutil.copytree(file.parent, target)
    model = onnx.load(target / file.name)
    change(model)
    onnx.save_model(model, str(target / file.name))
    return target / file.name


def domains(file: Path) -> set[str]:
    return {node.domain for node in onnx.load(file, load_external_data=False).graph.node}


@pytest.mark.parametrize("name", ["dynamo", "fused"])
def test_a_file_is_proven_against_its_reference(files: Files, tmp_path: Path, name: str) -> None:
    file = Path(shutil.copy(files.fused, tmp_path)) if name == "fused" else files.dynamo  # bare, or not
    done = adopt(file, name="vit", repo=tmp_path / "models", reference=f"hf:{files.vit}")
    spec = done.spec
    assert spec.proof.status == pb.PROOF_STATUS_PROVEN
    assert [graph.file for graph in spec.graphs] == ["model_uint8.onnx", "model.onnx"]
    assert all(0 < item.rel_l2 <= item.rel_l2_budget < 1e-5 for item in spec.proof.figures)
    assert "21 parameters of the reference are in the graph bit for bit" in spec.proof.note
    assert "held by the numbers alone" in spec.proof.note
    assert "held against hf: vit" in spec.source.weights_note
    assert [list(item.prefix_tokens) for item in spec.outputs] == [[pb.PREFIX_TOKEN_CLS], []]
    told = json.loads((done.path / "verification.json").read_text())
    assert sum(map(len, told["weights"].values())) == 21
    assert "layers.0.attention.q_proj.weight" in told["weights"]["transposed"]
    assert escape(spec.proof.note[1:]) in (done.path / "report.html").read_text()
    assert ("com.microsoft" in domains(done.path / "model.onnx")) is (name == "fused")
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    (mine,) = vitral_engine.open(done.path).embed([pixels])
    rows = (pixels / 255 - np.array(vits.MEAN)) / np.array(vits.STD)  # H W C
    given = torch.from_numpy(np.ascontiguousarray(rows.transpose(2, 0, 1)[None]))
    (its,) = vits.model(vits.OTHER).double()(given).last_hidden_state.detach().numpy()
    assert not mine.unproven
    assert np.linalg.norm(mine.outputs["last_hidden_state"] - its) < 2e-6 * np.linalg.norm(its)


def test_our_own_export_is_compared_whole(small_repo: Path, tmp_path: Path) -> None:
    file = small_repo / "tiny" / "1" / "model.onnx"
    options = Options(img_size=32, patch_size=8, embed_dim=16)
    done = adopt(file, name="t", repo=tmp_path / "models", reference="patch-embedding", options=options)
    assert done.spec.proof.status == pb.PROOF_STATUS_PROVEN
    assert done.spec.proof.note == ""
    assert "every parameter is the module's, bit for bit" in (done.path / "verification.json").read_text()


def test_without_a_reference_it_is_unproven_and_says_so(unproven: Path, capsys) -> None:
    spec = open_artifact(unproven / "vit").spec
    assert spec.proof.status == pb.PROOF_STATUS_UNPROVEN
    assert spec.proof.note.startswith("there was no PyTorch reference")
    assert not any(item.torch_rel_l2 or item.torch_max_abs for item in spec.proof.figures)
    assert all(2**-17 < item.rel_l2_budget < 1e-4 for item in spec.proof.figures)
    assert main(["inspect", str(unproven / "vit")]) == 0
    said = capsys.readouterr().out
    assert "UNPROVEN on CPUExecutionProvider" in said
    assert f"UNPROVEN: {spec.proof.note[:60]}" in said.replace("\n", " ")
    told = json.loads((unproven / "vit" / "1" / "verification.json").read_text())
    assert told["structure"] == ["Nothing: there was no reference to compare with."]
    assert "what the settings at adoption differ by" in told["rules"]["relative_l2"]
    page = (unproven / "vit" / "1" / "report.html").read_text()
    assert "Unproven." in page
    assert "PyTorch float32" not in page
    assert main(["verify", str(unproven / "vit")]) == 0
    capsys.readouterr()
    assert main(["verify", str(unproven / "vit"), "--source", "patch-embedding"]) == 1
    assert "build onnx:FILE --reference patch-embedding proves it" in capsys.readouterr().err


def test_its_goldens_hold_it_to_itself(unproven: Path, tmp_path: Path, capsys) -> None:
    (mine,) = vitral_engine.open(unproven / "vit").embed([np.zeros((40, 50, 3), np.uint8)])
    assert mine.unproven
    assert mine.cls.shape == (32,)
    repo = Path(shutil.copytree(unproven, tmp_path / "models"))
    file = repo / "vit" / "1" / "golden.safetensors"
    golden = load_file(file)
    golden["model.onnx/pooler_output"] *= 1 + 1e-4
    save_file(golden, file)
    manifest = repo / "vit" / "1" / "manifest.json"
    spec = json.loads(manifest.read_text())
    spec["sha256"]["golden.safetensors"] = sha256_file(file)
    manifest.write_text(json.dumps(spec))
    with pytest.raises(ProofError, match=r"pooler_output .*relative L2 1\.00e-04"):
        vitral_engine.open(repo / "vit")


def test_a_reference_that_comes_later_proves_it_in_another_version(tmp_path: Path) -> None:
    file, repo = onnx_files.by_hand(tmp_path / "m.onnx"), tmp_path / "models"
    (tmp_path / "preprocessor_config.json").write_text('{"size": 16}')
    weight, bias = (numpy_helper.to_array(item) for item in onnx.load(file).graph.initializer[:2])
    save_file({"projection.weight": weight, "projection.bias": bias}, tmp_path / "w.safetensors")
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 6, "weights": str(tmp_path / "w.safetensors")}
    first = adopt(file, name="m", repo=repo)
    assert first.changed
    assert not adopt(file, name="m", repo=repo).changed
    proven = adopt(file, name="m", repo=repo, reference="patch-embedding", options=Options(**sizes))
    assert proven.changed
    assert proven.path.name == "2"
    assert proven.spec.fingerprint == first.spec.fingerprint
    assert proven.spec.proof.status == pb.PROOF_STATUS_PROVEN
    assert proven.spec.proof.note == ""
    again = adopt(file, name="m", repo=repo, reference="patch-embedding", options=Options(**sizes))
    assert (again.path, again.changed) == (proven.path, False)
    assert adopt(file, name="m", repo=repo).path == proven.path


def scaled(model: onnx.ModelProto) -> None:
    (item,) = (item for item in model.graph.initializer if item.name.endswith("layernorm.weight"))
    array = numpy_helper.to_array(item).copy()
    array[3] *= 1.001
    item.CopyFrom(numpy_helper.from_array(array, item.name))


def exchanged(model: onnx.ModelProto) -> None:
    """One LayerNorm takes another's weights: all are there, in the wrong places."""
    names = [item.name for item in model.graph.initializer if "layernorm_" in item.name]
    before, after = (name for name in names if name.endswith("weight"))
    new = {before: after, after: before}
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (scaled, "structure: 1 of 21 parameters of the reference are nowhere in the file: layernorm.weight"),
        (exchanged, "numbers: model_uint8.onnx: last_hidden_state"),
    ],
)
def test_a_file_that_is_not_its_reference_is_refused(
    files: Files, tmp_path: Path, fault: Callable[[onnx.ModelProto], None], said: str
) -> None:
    file = changed(files.legacy, tmp_path / "vit", fault)
    with pytest.raises(ProofError, match=said):
        adopt(file, name="vit", repo=tmp_path / "models", reference=f"hf:{files.vit}")
    assert not (tmp_path / "models").exists()


def test_a_layout_of_weights_that_hides_them_is_no_proof(files: Files, tmp_path: Path) -> None:
    file = onnx_files.optimised(files.legacy, files.vit / "all.onnx", "ALL")
    with pytest.raises(ProofError, match=r"nowhere in the file: embeddings\.patch_embeddings\.projection"):
        adopt(file, name="vit", repo=tmp_path / "models", reference=f"hf:{files.vit}")


def test_the_reference_has_to_give_what_the_file_gives(
    files: Files, tmp_path: Path, small_repo: Path
) -> None:
    repo = tmp_path / "models"
    other = vits.save(tmp_path / "classifier", vits.model(vits.OTHER, add_pooling_layer=False))
    with pytest.raises(InvalidArgumentError, match=r"not pooler_output: --outputs chooses"):
        adopt(files.legacy, name="vit", repo=repo, reference=f"hf:{other}")
    with pytest.raises(InvalidArgumentError, match=r"takes images of .* 32 x 32, the reference .* 224 x 224"):
        adopt(files.legacy, name="vit", repo=repo, reference="patch-embedding")
    with pytest.raises(InvalidArgumentError, match="is no reference: a module in PyTorch is needed"):
        adopt(files.legacy, name="vit", repo=repo, reference=f"onnx:{files.legacy}")


def test_two_adoptions_are_the_same_bytes_and_name_no_machine(files: Files, tmp_path: Path) -> None:
    made = []
    for side in ("one", "two"):
        shutil.copytree(files.vit, tmp_path / side / "vit")
        file = tmp_path / side / "vit" / "dynamo.onnx"
        assert b"site-packages" in file.read_bytes()
        line = ["build", f"onnx:{file}", "--name", "vit", "--repo", str(tmp_path / side / "models")]
        assert main([*line, "--outputs", "tokens=last_hidden_state"]) == 0
        made.append(tmp_path / side / "models" / "vit" / "1")
    for path in sorted(made[0].iterdir()):
        data = path.read_bytes()
        assert data == (made[1] / path.name).read_bytes()
        assert b"site-packages" not in data
        assert str(tmp_path).encode() not in data
    spec = open_artifact(made[0]).spec
    assert [item.name for item in spec.outputs] == ["tokens"]
    weights = open_artifact(made[0]).folder / "weights.bin"
    assert weights.stat().st_size < files.vit.joinpath("dynamo.onnx.data").stat().st_size + 25 * 4096
