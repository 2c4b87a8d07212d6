"""Each precision exported, proven, opened and served; what cannot be is refused by name."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import vit_checkpoints as vits
from onnx import TensorProto
from photographs import ROCKET
from serving import running
from torch import Tensor, nn

import vitral_engine
import vitral_export
from vitral import spec as specs
from vitral.errors import InvalidArgumentError, ProofError, UnsupportedError, VitralError
from vitral.v1 import model_pb2 as pb
from vitral_client import Client
from vitral_engine import goldens
from vitral_engine.artifact import Artifact, open_artifact, sha256_file
from vitral_engine.measure import REL_L2_FLOOR, errors
from vitral_engine.placement import CPU, CUDA, TENSORRT
from vitral_engine.replay import budget_of
from vitral_export import numbers, onnx_graph, weights
from vitral_export.cli import main
from vitral_export.loaded import Loaded, Options
from vitral_export.modules import PatchEmbedding
from vitral_export.precision.graphs import converted
from vitral_export.precision.kinds import CEILING, FLOAT16, FLOAT32, INT8, OWN, STORAGE
from vitral_export.wrap import Inference

TWO_BLOCKS = {**vits.OTHER, "num_hidden_layers": 2}
SIZES = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")
MODELS = {
    "patches-float16": FLOAT16,
    "patches-float16-storage": STORAGE,
    "vit-float16": FLOAT16,
    "vit-float16-storage": STORAGE,
    "vit-int8": INT8,
}
OUTPUT = "last_hidden_state"
PIXELS, FLOATS = "model_uint8.onnx", "model.onnx"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vits.save(tmp_path_factory.mktemp("checkpoint") / "vit", vits.model(TWO_BLOCKS))


@pytest.fixture(scope="module")
def repo(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model of `MODELS`, proven in fewer settings than usual. Read only."""
    folder = tmp_path_factory.mktemp("precisions") / "models"
    traced: dict[str, onnx.ModelProto] = {}
    export = onnx_graph.export

    def exported(wrapped: Inference, loaded: Loaded, *, opset: int, scratch: Path) -> onnx.ModelProto:
        """Each module once: what is made of it next is another precision of the same."""
        name = loaded.architecture.module
        if name not in traced:
            traced[name] = export(wrapped, loaded, opset=opset, scratch=scratch)
            for item in traced[name].graph.initializer:
                weights.bring_in(item, scratch)
        made = onnx.ModelProto()
        made.CopyFrom(traced[name])
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "export", exported)
        patch.setattr(numbers, "BATCHES", (1, 3))
        patch.setattr(numbers, "LEVELS", ("disabled", "all"))
        patch.setattr(numbers, "THREADS", (1,))
        for name, precision in MODELS.items():
            vit = name.startswith("vit")
            source = [f"hf:{checkpoint}", "--outputs", OUTPUT] if vit else ["patch-embedding", *SIZES]
            options = ("--name", name, "--repo", str(folder), "--precision", precision)
            assert main(["build", *source, *options]) == 0
    return folder


@pytest.fixture(scope="module", params=MODELS)
def artifact(repo: Path, request: pytest.FixtureRequest) -> Artifact:
    return open_artifact(repo / request.param)


def test_the_loss_is_the_figure_and_the_same_loss_in_pytorch_its_budget(artifact: Artifact) -> None:
    spec = artifact.spec
    assert spec.precision == MODELS[spec.name]
    assert [graph.file for graph in spec.graphs] == [PIXELS, FLOATS]
    assert not spec.proof.ill_conditioned
    for figure in spec.proof.figures:
        assert figure.provider == (CPU if spec.precision == FLOAT16 else "")
        assert 1e-5 < figure.rel_l2 <= figure.rel_l2_budget <= CEILING
        assert figure.max_abs <= figure.max_abs_budget
        assert figure.rel_l2_budget == pytest.approx(3 * figure.torch_rel_l2 + REL_L2_FLOOR, rel=1e-6)
        assert figure.max_abs_budget > 3 * figure.torch_max_abs


def test_inputs_and_outputs_are_those_of_float32(artifact: Artifact) -> None:
    for graph in artifact.spec.graphs:
        model = onnx.load(artifact.folder / graph.file, load_external_data=False)
        told = [
            (item.name, item.type.tensor_type.elem_type) for item in (*model.graph.input, *model.graph.output)
        ]
        taken = ("pixels", TensorProto.UINT8) if graph.file == PIXELS else ("pixel_values", TensorProto.FLOAT)
        assert told == [taken, *((name, TensorProto.FLOAT) for name in graph.outputs)]


def test_weights_are_stored_as_the_precision_says(artifact: Artifact) -> None:
    precision, stored = artifact.spec.precision, set()
    for graph in artifact.spec.graphs:
        model = onnx.load(artifact.folder / graph.file)
        held = [item for item in model.graph.initializer if sum(extent > 1 for extent in item.dims) > 1]
        stored |= {item.data_type for item in held}
        if precision == INT8:
            floats = [item.name for item in held if item.data_type == TensorProto.FLOAT]
            assert all("embed" in name for name in floats), floats
        if precision == FLOAT16:
            wide = [item.name for item in model.graph.initializer if item.data_type == TensorProto.FLOAT]
            assert all("cls_token" in name for name in wide), wide  # it is repeated before it is rounded
        kept = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
        assert all(item.i == 1 for node in kept for item in node.attribute if item.name == "stash_type")
    assert stored == ({TensorProto.INT8, TensorProto.FLOAT} if precision == INT8 else {TensorProto.FLOAT16})


def test_fused_operators_are_counted_and_no_part_of_the_identity(artifact: Artifact) -> None:
    counted = [dict(graph.fused) for graph in artifact.spec.graphs]
    if artifact.name == "vit-int8":
        assert all(item["DynamicQuantizeMatMul"] + item["MatMulIntegerToFloat"] >= 12 for item in counted)
    if artifact.name.startswith("patches"):
        assert counted == [{}, {}]
    other = pb.ModelSpec()
    other.CopyFrom(artifact.spec)
    for graph in other.graphs:
        graph.fused["Attention"] = 7
    assert specs.identity(other, other.sha256) == artifact.spec.fingerprint


def test_another_provider_is_held_to_the_same_budget(artifact: Artifact) -> None:
    spec = artifact.spec
    for figure in spec.proof.figures:
        for provider in (CPU, CUDA, TENSORRT):
            allowed = budget_of(spec, figure.graph, figure.output, provider)
            times = 2 if provider == TENSORRT and spec.precision != FLOAT16 else 1
            assert allowed.rel_l2 == times * figure.rel_l2_budget


def test_where_the_proof_ran_elsewhere_the_engine_says_so(
    repo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As if it had been exported on a GPU alone."""
    folder = shutil.copytree(repo / "vit-float16", tmp_path / "vit-float16") / "1"
    data = json.loads((folder / specs.MANIFEST).read_text().replace(CPU, CUDA))
    data["sha256"] = {name: sha256_file(folder / name) for name in data["sha256"]}
    (folder / specs.MANIFEST).write_text(json.dumps(data))
    with caplog.at_level(logging.INFO):
        model = vitral_engine.open(folder, device="cpu")
    told = f"its proof ran on {CUDA}; here only its goldens ran on {CPU}"
    assert any(told in record.getMessage() for record in caplog.records)
    assert 0 < model.replayed.rel_l2 <= model.replayed.rel_l2_budget
    model.close()


@pytest.fixture(scope="module")
def client(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with (
        running(repo, log=tmp_path_factory.mktemp("served") / "log") as server,
        Client(server.address) as opened,
    ):
        yield opened


def test_served_numbers_are_within_budget(artifact: Artifact, client: Client) -> None:
    spec = artifact.spec
    name = spec.default_outputs[0]
    (got,) = client.embed([ROCKET], model=spec.name)
    truth = goldens.load(artifact.folder, spec).outputs[PIXELS, name][:1]  # the same photograph
    found = errors(np.asarray(got.outputs[name])[None], truth)
    assert budget_of(spec, PIXELS, name, CPU).holds(found)
    assert found.rel_l2 > 1e-5


def test_commands_and_report_show_the_loss(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = repo / "vit-int8"
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    for words in ("int8: the encoder's products", OWN[INT8], "1 - cosine", "DynamicQuantizeMatMul"):
        assert words in said
    page = (path / "1" / "report.html").read_text()
    for words in (OWN[INT8], "Worst 1 - cosine", "the pictures beside it", "DynamicQuantizeMatMul"):
        assert words in page
    figures = json.loads((path / "1" / "verification.json").read_text())
    assert OWN[INT8] in figures["rules"]["relative_l2"]
    assert any("levels and scales" in line for line in figures["structure"])


class Large(nn.Module):
    """Nothing of it is beyond float16 but the values that one layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first = PatchEmbedding(32, 8, 3, 16)
        self.wide = nn.Linear(16, 8)
        nn.init.constant_(self.wide.weight, 3e4)

    def forward(self, pixel_values: Tensor) -> Tensor:
        found: Tensor = self.wide(self.first(pixel_values)) * 1e-4
        return found


def _refused(module: nn.Module, repo: Path, precision: str, kind: type[VitralError], message: str) -> None:
    own = isinstance(module, Large)
    options = Options(img_size=32, patch_size=8) if own else None
    with pytest.raises(kind, match=message):
        vitral_export.export(
            module, name="m", repo=repo, precision=precision, options=options, preprocessing="none"
        )
    assert not list(repo.parent.iterdir())


@pytest.mark.parametrize("precision", [FLOAT16, STORAGE])
def test_a_weight_beyond_float16_is_refused_by_name(small_repo: Path, precision: str) -> None:
    model = onnx.load(small_repo / "tiny" / "1" / FLOATS)
    held = next(item for item in model.graph.initializer if item.name == "projection.weight")
    array = onnx.numpy_helper.to_array(held).copy()
    array[3, 1, 2, 5] = 7e4
    held.CopyFrom(onnx.numpy_helper.from_array(array, held.name))
    with pytest.raises(ProofError, match=r"numbers: projection\.weight reaches 70000, float16 ends at 65504"):
        converted({FLOATS: model}, precision)


def test_a_value_beyond_float16_is_refused_by_name(tmp_path: Path) -> None:
    told = r"numbers: wide \(linear\w*\) reaches [0-9.e+]+, float16 ends at 65504"
    _refused(Large(), tmp_path / "models", FLOAT16, ProofError, told)


def test_int8_without_an_encoder_is_refused(tmp_path: Path) -> None:
    told = "nothing to quantise to int8: no product stands behind the patch embedding"
    _refused(PatchEmbedding(32, 8, 3, 16), tmp_path / "models", INT8, UnsupportedError, told)


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    told = "unknown precision 'float8'; known are float32, float16, float16-storage, int8"
    _refused(PatchEmbedding(32, 8, 3, 16), tmp_path / "models", "float8", InvalidArgumentError, told)


class Ruined(Large):
    """One value in front of a product is so large that the others' levels are all the same."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        rows = self.first(pixel_values)
        outlier = rows.sum(-1, keepdim=True) * 1e6
        found: Tensor = torch.cat([rows, outlier], -1) @ self.matrix
        return found

    def __init__(self) -> None:
        super().__init__()
        del self.wide
        matrix = torch.randn(17, 8, generator=torch.Generator().manual_seed(0))
        matrix[-1] = 0  # it changes nothing but the range
        self.matrix = nn.Parameter(matrix)


def test_int8_of_no_use_is_refused(tmp_path: Path) -> None:
    told = r"int8 moves embeddings of \w+ by relative L2 .* in PyTorch itself: over 0\.25 it is of no use"
    _refused(Ruined(), tmp_path / "models", INT8, ProofError, told)


def test_float32_says_its_precision_too(small_repo: Path) -> None:
    spec = open_artifact(small_repo / "tiny").spec
    assert spec.precision == FLOAT32
    assert [figure.provider for figure in spec.proof.figures] == ["", ""]
