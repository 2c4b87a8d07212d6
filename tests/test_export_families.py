"""The modules of the tutorial: shapes, names, initial values, and what their artifacts say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

import vitral_export
from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral_export.cli import main
from vitral_export.loaded import Options
from vitral_export.modules import (
    ManualPatchEmbedding,
    PatchEmbedding,
    PatchEmbedding2DPosition,
    ViT2DPositionEmbedding,
    ViTEmbedding,
)
from vitral_export.sources import SOURCES, load

SMALL = Options(img_size=32, patch_size=8, embed_dim=16)


def dyadic(module: nn.Module) -> None:
    """Weights k / 1024: with integer pixels every sum is exact, in whatever order it is taken."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randint(-512, 512, parameter.shape) / 1024)


def test_the_manual_twin_is_equal_bit_for_bit_on_dyadic_weights_and_integer_pixels() -> None:
    conv = PatchEmbedding(48, 16, 3, 32)
    dyadic(conv)
    twin = ManualPatchEmbedding.from_conv(conv)
    images = torch.randint(0, 256, (3, 3, 48, 48)).float()
    with torch.inference_mode():
        assert torch.equal(twin(images), conv(images))


def test_the_manual_twin_agrees_on_random_weights_within_rounding() -> None:
    conv = PatchEmbedding(224, 16, 3, 64)
    twin = ManualPatchEmbedding.from_conv(conv)
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        gap = (twin(images) - conv(images)).norm() / conv(images).norm()
    assert 0 <= float(gap) < 1e-6


def test_a_convolution_without_bias_has_a_twin_without() -> None:
    conv = PatchEmbedding(32, 8, 3, 16)
    conv.projection = nn.Conv2d(3, 16, 8, 8, bias=False)
    twin = ManualPatchEmbedding.from_conv(conv)
    images = torch.randn(1, 3, 32, 32)
    assert twin.projection.bias is None
    assert torch.allclose(twin(images), conv(images), atol=1e-5)
    with pytest.raises(InvalidArgumentError, match="from_conv takes a PatchEmbedding, not a Linear"):
        ManualPatchEmbedding.from_conv(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_the_steps_of_cutting_have_their_names_and_shapes() -> None:
    module = ManualPatchEmbedding()
    steps = module.patchify_steps(torch.arange(3 * 224 * 224).reshape(1, 3, 224, 224).float())
    assert {name: tuple(tensor.shape) for name, tensor in steps.items()} == {
        "images": (1, 3, 224, 224),
        "view": (1, 3, 14, 16, 14, 16),
        "permute": (1, 14, 14, 3, 16, 16),
        "reshape": (1, 196, 768),
        "projection": (1, 196, 768),
    }
    second = steps["images"][0, :, :16, 16:32]  # C P P: patch 1 is the second of the first row
    assert torch.equal(steps["reshape"][0, 1], second.flatten())


def test_patches_can_be_cut_from_images_in_any_memory_format() -> None:
    module = ManualPatchEmbedding(32, 8, 3, 16)
    images = torch.randn(2, 3, 32, 32)
    turned = images.to(memory_format=torch.channels_last)
    assert torch.equal(module.patchify_steps(turned)["reshape"], module.patchify_steps(images)["reshape"])


def test_vit_embedding_puts_the_cls_token_in_front_and_adds_positions() -> None:
    module = ViTEmbedding().eval()
    assert list(module.state_dict()) == [
        "cls_token",
        "position_embedding",
        "patch_embedding.projection.weight",
        "patch_embedding.projection.bias",
    ]
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        tokens = module(images)
        patches = module.patch_embedding(images)
    assert tokens.shape == (2, 197, 768)
    assert torch.equal(tokens[1, 0], module.cls_token[0, 0] + module.position_embedding[0, 0])
    assert torch.equal(tokens[:, 1:], patches + module.position_embedding[:, 1:])


def test_fresh_positions_are_a_truncated_normal_of_the_seed() -> None:
    torch.manual_seed(3)
    first = ViTEmbedding(224, 16, 3, 768)
    torch.manual_seed(3)
    second = ViTEmbedding(224, 16, 3, 768)
    values = first.position_embedding.detach()
    assert torch.equal(values, second.position_embedding)
    assert torch.equal(first.cls_token, second.cls_token)
    assert abs(float(values.mean())) < 3 * 0.02 / values.numel() ** 0.5
    assert abs(float(values.std()) / 0.02 - 1) < 0.01
    assert float(values.abs().max()) <= 2
    assert not torch.equal(first.cls_token[0, 0], values[0, 0])


def test_dropout_works_in_training_and_is_left_out_of_the_export(tmp_path: Path) -> None:
    module = ViTEmbedding(32, 8, 3, 16, dropout=0.5)
    images = torch.randn(1, 3, 32, 32)
    assert not torch.equal(module.train()(images), module.train()(images))
    done = vitral_export.export(module, name="trained", repo=tmp_path)
    assert module.training
    assert done.spec.proof.status == pb.PROOF_STATUS_PROVEN
    with pytest.raises(InvalidArgumentError, match=r"dropout must be from 0 to 1, not 1\.5"):
        ViTEmbedding(32, 8, 3, 16, dropout=1.5)


def test_2d_positions_have_the_row_in_the_first_half_and_the_column_in_the_second() -> None:
    module = ViT2DPositionEmbedding(img_size=224, patch_size=16, embed_dim=768)
    tokens = torch.zeros(2, 196, 768)
    with torch.inference_mode():
        added = module(tokens)
    assert added.shape == (2, 196, 768)
    row, column = 3, 11
    patch = added[1, row * 14 + column]
    assert torch.equal(patch[:384], module.row_embed.weight[row])
    assert torch.equal(patch[384:], module.col_embed.weight[column])
    assert module.row_indices.tolist() == [index // 14 for index in range(196)]
    assert module.col_indices.tolist() == [index % 14 for index in range(196)]


def test_2d_positions_load_states_with_and_without_indices() -> None:
    module, other = (ViT2DPositionEmbedding(32, 8, 16) for _ in range(2))
    state = module.state_dict()
    other.load_state_dict({name: state[name] for name in ("row_embed.weight", "col_embed.weight")})
    assert torch.equal(other.table(), module.table())
    other.load_state_dict(state)
    state["row_indices"] = state["col_indices"]
    with pytest.raises(InvalidArgumentError, match="row_indices is not that of a grid of 16 patches"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViT2DPositionEmbedding(32, 8, 15), "embed_dim 15 is odd"),
        (lambda: PatchEmbedding2DPosition(32, 8, 3, 15), "embed_dim 15 is odd"),
        (lambda: ViT2DPositionEmbedding(30, 8, 16), "img_size 30 is not a multiple of patch_size 8"),
        (lambda: ViT2DPositionEmbedding(32, 8, 16)(torch.zeros(1, 16, 8)), "is 16 x 8 an image, the module"),
        (lambda: ViT2DPositionEmbedding(32, 8, 16)(torch.zeros(16, 16)), "has 2 axes, 3 are expected"),
        (lambda: ManualPatchEmbedding(32, 8, 3, 16)(torch.zeros(1, 1, 32, 32)), "has 1 channels, the module"),
        (lambda: ViTEmbedding(32, 8, 3, 16)(torch.zeros(1, 3, 32, 40)), "is 32 x 40, the module takes"),
    ],
)
def test_sizes_and_inputs_that_do_not_fit_are_refused_with_the_numbers(make: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        make()


@pytest.mark.parametrize("name", SOURCES)
def test_every_preset_is_proven_and_says_what_it_is(name: str, preset_repo: Path) -> None:
    artifact = preset_repo / name / "1"
    spec = pb.ModelSpec()
    spec.CopyFrom(spec_of(artifact))
    assert spec.proof.status == pb.PROOF_STATUS_PROVEN
    assert spec.source.kind == name
    outputs = {item.name: [axis.size for axis in item.axes] for item in spec.outputs}
    wanted = {
        "patch-embedding": {"patch_embeddings": [0, 16, 16]},
        "manual-patch-embedding": {"patch_embeddings": [0, 16, 16]},
        "vit-embedding": {"embeddings": [0, 17, 16], "patch_embeddings": [0, 16, 16]},
        "patch-embedding-2d-position": {"embeddings": [0, 16, 16], "patch_embeddings": [0, 16, 16]},
        "position-embedding-2d": {"embeddings": [0, 16, 16]},
    }
    assert outputs == wanted[name]
    assert list(spec.default_outputs) == [next(iter(wanted[name]))]
    images = name != "position-embedding-2d"
    assert [graph.file for graph in spec.graphs] == ["model_uint8.onnx", "model.onnx"][not images :]
    assert spec.HasField("preprocessing") is images


def spec_of(folder: Path) -> pb.ModelSpec:
    from vitral_engine.artifact import open_artifact

    return open_artifact(folder).spec


def test_pictures_are_drawn_from_tensors_of_the_same_names_for_every_module(preset_repo: Path) -> None:
    held = {name: load_file(preset_repo / name / "1" / "embedding.safetensors") for name in SOURCES}
    shapes = {name: {key: value.shape for key, value in tensors.items()} for name, tensors in held.items()}
    projection = {"projection.weight": (16, 3, 8, 8), "projection.bias": (16,)}
    assert shapes == {
        "patch-embedding": projection,
        "manual-patch-embedding": projection,
        "vit-embedding": projection | {"cls_token": (16,), "position_embedding": (17, 16)},
        "patch-embedding-2d-position": projection | {"position_embedding": (16, 16)},
        "position-embedding-2d": {"position_embedding": (16, 16)},
    }
    module = load("manual-patch-embedding", SMALL).module
    weight = module.projection.weight.detach().numpy()  # type: ignore[union-attr,operator]
    assert np.array_equal(held["manual-patch-embedding"]["projection.weight"].reshape(16, -1), weight)


def test_the_manual_twin_has_a_uint8_graph_that_gives_the_same(preset_repo: Path, tmp_path: Path) -> None:
    conv = load("patch-embedding", SMALL).module
    assert isinstance(conv, PatchEmbedding)
    done = vitral_export.export(ManualPatchEmbedding.from_conv(conv), name="twin", repo=tmp_path)
    picture = np.random.default_rng(5).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    found = []
    for folder in (done.path, preset_repo / "patch-embedding"):
        import vitral_engine

        model = vitral_engine.open(folder, device="cpu")
        found.append(model.embed([picture])[0].patches)
        model.close()
    assert np.allclose(found[0], found[1], rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (("nothing",), "there is no output 'nothing'; known are embeddings, patch_embeddings"),
        (("embeddings", "embeddings"), "name one twice"),
    ],
)
def test_outputs_that_are_not_there_are_refused(outputs: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        load("vit-embedding", Options(img_size=32, patch_size=8, embed_dim=16, outputs=outputs))


def test_outputs_are_exported_as_chosen_the_first_by_default(tmp_path: Path) -> None:
    line = ["build", "vit-embedding", "--name", "m", "--repo", str(tmp_path), "--outputs", "patch_embeddings"]
    assert main([*line, "--img-size", "32", "--patch-size", "8", "--embed-dim", "16"]) == 0
    spec = spec_of(tmp_path / "m" / "1")
    assert [item.name for item in spec.outputs] == ["patch_embeddings"]
    assert list(spec.default_outputs) == ["patch_embeddings"]


def test_a_module_whose_layers_are_not_its_sizes_is_refused(tmp_path: Path) -> None:
    module = ViTEmbedding(32, 8, 3, 16)
    module.position_embedding = nn.Parameter(torch.zeros(1, 16, 16))
    with pytest.raises(UnsupportedError, match=r"position_embedding is \(1, 16, 16\), that of the module"):
        vitral_export.export(module, name="m", repo=tmp_path)
    manual = ManualPatchEmbedding(32, 8, 3, 16)
    manual.projection = nn.Linear(64, 16)
    with pytest.raises(
        UnsupportedError, match=r"weight \(16, 64\), that of the module's sizes is \(16, 192\)"
    ):
        vitral_export.export(manual, name="m", repo=tmp_path)
