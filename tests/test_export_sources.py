from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

import vitral_engine
import vitral_export
from vitral.errors import InvalidArgumentError, ProofError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine.artifact import open_artifact
from vitral_engine.device import available
from vitral_engine.replay import demand, replay
from vitral_export import sources
from vitral_export.build import build
from vitral_export.modules import PatchEmbedding
from vitral_export.sources import Options, load
from vitral_export.wrap import Inference

SMALL = Options(img_size=32, patch_size=8, embed_dim=16)


def small(channels: int = 3) -> PatchEmbedding:
    return PatchEmbedding(32, 8, channels, 16)


def test_a_seed_gives_its_weights_and_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = (load("patch-embedding", SMALL).module for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    for mine, its in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_random_weights_are_called_random(small_repo: Path) -> None:
    spec = open_artifact(small_repo / "tiny").spec
    assert spec.source.weights == pb.WEIGHTS_ORIGIN_RANDOM
    assert spec.source.weights_note == "random weights, seed 0"
    report = (small_repo / "tiny" / "1" / "report.html").read_text()
    assert "Random weights, seed 0" in report


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_impossible_seeds_are_refused(seed: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"not {seed}"):
        load("patch-embedding", Options(seed=seed))


def test_an_unknown_source_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgumentError, match="unknown source 'resnet'; known are patch-embedding"):
        load("resnet", SMALL)


def test_a_module_is_exported_as_given_and_not_changed(tmp_path: Path) -> None:
    module = small().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    done = vitral_export.export(module, name="mine", repo=tmp_path / "models")
    assert module.training
    assert all(tensor.requires_grad for tensor in module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert done.changed
    assert done.path == (tmp_path / "models" / "mine" / "1").resolve()
    assert done.spec.source.weights_note == "weights as given"
    saved = load_file(done.path / "embedding.safetensors")
    assert np.array_equal(saved["projection.weight"], before["projection.weight"].numpy())


def test_one_channel_has_no_preprocessing_and_one_graph(tmp_path: Path) -> None:
    done = vitral_export.export(small(1), name="grey", repo=tmp_path)
    assert not done.spec.HasField("preprocessing")
    assert [graph.file for graph in done.spec.graphs] == ["model.onnx"]
    assert not (done.path / "photograph.jpg").exists()
    demand(replay(open_artifact(done.path), available(), levels=("all",), threads=(1,)), model="grey")


def test_ones_own_preprocessing_is_folded_and_written(tmp_path: Path) -> None:
    own = pb.Preprocessing(
        contract="hf-pil",
        size=tensor_pb2.ImageSize(height=32, width=32),
        resample=pb.RESAMPLE_BICUBIC,
        rescale_factor=1 / 255,
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
    )
    done = vitral_export.export(small(), name="own", repo=tmp_path, preprocessing=own)
    assert done.spec.preprocessing == own
    config = json.loads((done.path / "preprocessor_config.json").read_text())
    assert (config["image_mean"], config["resample"]) == ([0.485, 0.456, 0.406], 3)
    own.size.width = 40
    with pytest.raises(InvalidArgumentError, match="preprocessing gives 32 x 40, the module takes 32 x 32"):
        vitral_export.export(small(), name="other", repo=tmp_path, preprocessing=own)


def test_no_preprocessing_can_be_asked_for(tmp_path: Path) -> None:
    done = vitral_export.export(small(), name="plain", repo=tmp_path, preprocessing="none")
    assert [graph.file for graph in done.spec.graphs] == ["model.onnx"]


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    module = small()
    with torch.no_grad():
        module.projection.bias[3] = float("nan")
    with pytest.raises(InvalidArgumentError, match=r"projection\.bias holds NaN or Inf in 1 of 16 elements"):
        vitral_export.export(module, name="bad", repo=tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_float32_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"projection.weight is torch.float16"):
        vitral_export.export(small().half(), name="half", repo=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preprocessing": None}, "FILE.json or a Preprocessing, not None"),
        ({"preprocessing": {"mean": 0.5}}, "FILE.json or a Preprocessing, not {'mean': 0.5}"),
        ({"preprocessing": "hf-tensorflow"}, "hf-pil, hf-torchvision, .*, not 'hf-tensorflow'"),
        ({"high_depth": "white"}, "high depth is refuse or scale, not 'white'"),
        ({"preprocessing": "none", "high_depth": "scale"}, "the model takes no pictures"),
        ({"name": 5}, "name 5 is not possible"),
        ({"repo": ""}, "the repository's name is empty"),
    ],
)
def test_arguments_of_other_types_are_refused(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        vitral_export.export(small(), **{"name": "m", "repo": tmp_path, **arguments})
    assert not list(tmp_path.iterdir())


def test_a_module_without_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"projection\.weight is on the meta device"):
        vitral_export.export(small().to("meta"), name="empty", repo=tmp_path)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.Conv2d(3, 16, 8, stride=4),
            r"projection has stride \(4, 4\), that of the module's sizes is \(8, 8\)",
        ),
        (nn.Conv2d(3, 16, 4, stride=8), r"has kernel size \(4, 4\)"),
        (nn.Conv2d(3, 16, 8, stride=8, padding=2), r"has padding \(2, 2\)"),
        (nn.Conv2d(3, 16, 8, stride=8, dilation=2), r"has dilation \(2, 2\)"),
        (nn.Conv2d(4, 16, 8, stride=8, groups=2), r"has groups 2"),
        (nn.Conv2d(3, 12, 8, stride=8), r"has weight \(12, 3, 8, 8\)"),
        (nn.Linear(3, 16), "is a Linear, not a Conv2d"),
    ],
)
def test_a_projection_of_other_sizes_is_refused(layer: nn.Module, message: str, tmp_path: Path) -> None:
    module = small()
    module.projection = layer  # type: ignore[assignment]
    with pytest.raises(UnsupportedError, match=message):
        vitral_export.export(module, name="other", repo=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError("can't allocate"), MemoryError("can't allocate")])
def test_sizes_for_which_memory_is_short_are_refused(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(_: Options) -> nn.Module:
        raise error

    short = replace(sources.SOURCES["patch-embedding"], make=make)
    monkeypatch.setattr(sources, "SOURCES", {"patch-embedding": short})
    with pytest.raises(InvalidArgumentError, match=r"embed_dim=16 cannot be made: can't allocate"):
        load("patch-embedding", SMALL)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_bias_of_zeros_stays_in_every_graph(channels: int, zero: float, tmp_path: Path) -> None:
    module = small(channels)
    nn.init.constant_(module.projection.bias, zero)  # type: ignore[arg-type]
    done = vitral_export.export(module, name="m", repo=tmp_path)
    assert len(done.spec.graphs) == (2 if channels == 3 else 1)
    graph = onnx.load(done.path / "model.onnx").graph
    assert list(graph.node[0].input) == ["pixel_values", "projection.weight", "projection.bias"]
    bias = next(item for item in graph.initializer if item.name == "projection.bias")
    assert onnx.numpy_helper.to_array(bias).tobytes() == np.full(16, zero, np.float32).tobytes()


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_weights_that_are_all_alike_are_exported(weight: float, tmp_path: Path) -> None:
    module = small()
    nn.init.constant_(module.projection.weight, weight)
    nn.init.zeros_(module.projection.bias)  # type: ignore[arg-type]
    assert vitral_export.export(module, name="m", repo=tmp_path).changed


def test_a_projection_without_bias_is_exported(tmp_path: Path) -> None:
    module = small()
    module.projection = nn.Conv2d(3, 16, 8, stride=8, bias=False)
    assert vitral_export.export(module, name="m", repo=tmp_path).changed


@pytest.mark.parametrize("seed", range(3))
def test_a_single_patch_is_exported(seed: int, tmp_path: Path) -> None:
    options = Options(seed=seed, img_size=16, patch_size=16, embed_dim=16)
    assert build(load("patch-embedding", options), name="m", repo=tmp_path).changed


@pytest.mark.parametrize("seed", range(3))
def test_few_features_that_cancel_are_refused_and_leave_nothing(seed: int, tmp_path: Path) -> None:
    options = Options(seed=seed, img_size=16, patch_size=16, embed_dim=2)
    repo = tmp_path / "models"
    try:
        figures = build(load("patch-embedding", options), name="m", repo=repo).spec.proof.figures
    except ProofError as refusal:  # whether they do depends on the last bits of the machine
        figures = None
        said = str(refusal)
    if figures is None:
        assert "relative L2" in said
        assert "(budget" in said
        assert not list(tmp_path.iterdir())
    else:
        assert all(0 < figure.rel_l2 <= figure.rel_l2_budget for figure in figures)


class Louder(PatchEmbedding):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return super().forward(pixel_values) * 2


def test_a_subclass_is_exported_for_what_it_computes(tmp_path: Path) -> None:
    module = Louder(32, 8, 3, 16)
    done = vitral_export.export(module, name="louder", repo=tmp_path)
    assert done.spec.source.kind == "module"
    assert done.spec.source.reference.endswith("Louder")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    model = vitral_engine.open(done.path, device="cpu")
    [found] = model.embed([image])
    model.close()
    with torch.inference_mode():
        rows = torch.from_numpy((image.transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5).float()
        assert np.allclose(found.patches, module(rows)[0].numpy(), atol=1e-5)


def test_a_module_that_takes_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="Linear does not take images of 3 x 224 x 224: mat1"):
        vitral_export.export(nn.Linear(2, 2), name="other", repo=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_high_gain_model_is_called_ill_conditioned(tmp_path: Path) -> None:
    module = small()
    with torch.no_grad():  # each output is the small difference of large sums
        half = module.projection.weight[:, :, :, :4].clone()
        module.projection.weight[:, :, :, :4] = half * 1e4
        module.projection.weight[:, :, :, 4:] = -half * 1e4
    done = vitral_export.export(module, name="steep", repo=tmp_path)
    assert done.spec.proof.ill_conditioned
    assert done.spec.proof.torch_rel_l2 > 2e-6
    assert "Ill-conditioned" in (done.path / "report.html").read_text()


def test_inference_mode_is_a_copy() -> None:
    module = small().train()
    wrapped = Inference(sources.given(module))
    assert not wrapped.module.training
    assert wrapped.module is not module
