"""Vision Transformers of timm, exported and proven, each from a folder that timm saved: `make test-timm`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import timm_checkpoints as files
import torch
from safetensors.torch import load_file
from timm_checkpoints import ARCHITECTURES

from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import open_artifact
from vitral_export.cli import main
from vitral_export.loaded import Options
from vitral_export.sources import load

timm = pytest.importorskip("timm", reason="timm is not installed: make test-timm", exc_type=ImportError)
TOKENS = ["last_hidden_state", "patch_embeddings", "embeddings"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_outputs_are_what_timm_itself_computes(tmp_path: Path, name: str) -> None:
    model, folder = files.save(tmp_path / "saved", name)
    loaded, form = load(f"timm:{name}@{folder}", Options()), ARCHITECTURES[name]
    patch, tokens = form.patch, 4 + len(form.prefix)
    shapes = {item.name: [axis.size for axis in item.axes] for item in loaded.outputs}
    expected = dict(zip(TOKENS, ([0, tokens, 32], [0, 4, 32], [0, tokens, 32]), strict=True))
    assert shapes == expected | ({"pooler_output": [0, 32]} if form.pooled else {})
    assert tuple(loaded.outputs[0].prefix_tokens) == form.prefix
    sizes = loaded.architecture
    assert (sizes.patch_size.width, sizes.image_size.height, sizes.grid.width) == (patch, 2 * patch, 2)
    images = torch.randn(2, 3, 2 * patch, 2 * patch)
    with torch.no_grad():
        found = loaded.compute(loaded.module, images)
        features = model.forward_features(images)
        assert torch.equal(found["last_hidden_state"], features)
        patches = model.patch_embed.proj(images).flatten(2).transpose(1, 2)
        assert torch.equal(found["patch_embeddings"], model.patch_embed.norm(patches))
        encoded = model.norm(model.blocks(found["embeddings"]))
        assert torch.equal(encoded, features)
        if form.pooled:
            assert torch.equal(found["pooler_output"], model.forward_head(features, pre_logits=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_export_is_proven(tmp_path: Path, name: str) -> None:
    _, folder = files.save(tmp_path / "saved", name)
    source, repo = f"timm:{name}@{folder}", tmp_path / "models"
    assert main(["build", source, "--name", "m", "--repo", str(repo)]) == 0
    spec = open_artifact(repo / "m").spec
    assert spec.proof.status == pb.PROOF_STATUS_PROVEN
    assert (spec.source.kind, spec.source.reference) == ("timm", f"{name}@saved")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert spec.source.weights_sha256 == digest
    assert spec.source.libraries["timm"] == timm.__version__


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224", "test_vit3"])
def test_tensors_for_pictures_add_up_to_the_embeddings(tmp_path: Path, name: str) -> None:
    _, folder = files.save(tmp_path / "saved", name)
    loaded, form = load(f"timm:{name}@{folder}", Options()), ARCHITECTURES[name]
    held = {key: torch.from_numpy(array) for key, array in loaded.embedding.items()}
    assert ("projection.bias" in held) is ("clip" not in name)
    assert ("cls_token" in held) is (files.CLS in form.prefix)
    images = torch.randn(1, 3, 2 * form.patch, 2 * form.patch)
    projected = torch.nn.functional.conv2d(
        images, held["projection.weight"], held.get("projection.bias"), stride=form.patch
    )
    tokens = projected[0].flatten(1).T + held["position_embedding"][len(form.prefix) :]
    with torch.no_grad():
        normed = loaded.module.norm_pre(tokens)  # type: ignore[operator]
        found = loaded.compute(loaded.module, images)["embeddings"][0]
    assert torch.allclose(found[len(form.prefix) :], normed, rtol=0, atol=2e-6)
    if files.CLS in form.prefix and "clip" not in name:
        cls = held["cls_token"] + held["position_embedding"][0]
        assert torch.allclose(found[0], cls, rtol=0, atol=1e-6)


def test_random_weights_are_those_of_the_seed() -> None:
    source = "timm:vit_tiny_patch16_224"
    first, second, other = (load(source, Options(seed=seed, img_size=32)) for seed in (1, 1, 2))
    assert first.source.weights_note == "random weights, seed 1"
    assert first.source.weights == pb.WEIGHTS_ORIGIN_RANDOM
    assert first.architecture.grid.height == 2
    its = second.module.state_dict()
    assert all(torch.equal(tensor, its[name]) for name, tensor in first.module.state_dict().items())
    assert not torch.equal(first.module.pos_embed, other.module.pos_embed)  # type: ignore[arg-type]


def test_a_single_file_is_read_under_a_name(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    files.save(tmp_path / "saved", "vit_tiny_patch16_224")
    file = tmp_path / "tiny.safetensors"
    torch.manual_seed(5)
    state = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    from safetensors.torch import save_file

    save_file(state, file)
    loaded = load(f"timm:vit_tiny_patch16_224@{file}", Options())
    assert loaded.source.reference == "vit_tiny_patch16_224@tiny.safetensors"
    held = load_file(file)
    assert all(torch.equal(tensor, held[name]) for name, tensor in loaded.module.state_dict().items())
