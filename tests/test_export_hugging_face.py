"""Hugging Face ViTs: what is read from a checkpoint, in whatever form it was saved, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import vit_checkpoints as vits
from safetensors.torch import load_file
from torch import Tensor
from transformers import ViTForImageClassification, ViTForMaskedImageModeling, ViTModel

import vitral_export
from vitral.errors import InvalidArgumentError, ProofError
from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import open_artifact
from vitral_export.build import build
from vitral_export.cli import main
from vitral_export.loaded import Loaded, Options
from vitral_export.modules import ManualPatchEmbedding, PatchEmbedding, ViTEmbedding
from vitral_export.sources import load
from vitral_export.stages import stages

TOKENS = ["last_hidden_state", "patch_embeddings", "embeddings"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints `odd`, `other` and `classifier`, the last without a pooler."""
    folder = tmp_path_factory.mktemp("checkpoints")
    vits.save(folder / "odd", vits.model(vits.ODD))
    vits.save(folder / "other", vits.model(vits.OTHER))
    vits.save(folder / "classifier", vits.model(vits.OTHER, ViTForImageClassification))
    return folder


def of(folder: Path, **options: Any) -> Loaded:
    return load(f"hf:{folder}", Options(**options))


def equal(loaded: Loaded, state: dict[str, Tensor]) -> bool:
    mine = loaded.module.state_dict()
    return mine.keys() == state.keys() and all(torch.equal(mine[name], state[name]) for name in mine)


def test_everything_about_a_checkpoint_is_read_from_it(folder: Path) -> None:
    loaded = of(folder / "odd")
    sizes = loaded.architecture
    assert (sizes.image_size.height, sizes.patch_size.width, sizes.embed_dim) == (112, 14, 60)
    assert (sizes.grid.height, sizes.grid.width, sizes.in_channels) == (8, 8, 3)
    assert [item.name for item in loaded.outputs] == [*TOKENS, "pooler_output"]
    assert [[axis.size for axis in item.axes] for item in loaded.outputs] == [
        [0, 65, 60],
        [0, 64, 60],
        [0, 65, 60],
        [0, 60],
    ]
    assert [list(item.prefix_tokens) for item in loaded.outputs] == [[1], [], [1], []]
    assert loaded.outputs[0].image_dependent_prefix
    assert not loaded.outputs[2].image_dependent_prefix
    assert loaded.preprocessing is not None
    assert list(loaded.preprocessing.mean) == pytest.approx(vits.MEAN)
    assert list(loaded.preprocessing.std) == pytest.approx(vits.STD)
    assert loaded.source.reference == "odd"
    assert loaded.source.weights == pb.WEIGHTS_ORIGIN_CHECKPOINT
    assert "transformers" in loaded.source.libraries
    assert equal(loaded, vits.model(vits.ODD).state_dict())


def as_transformers_4(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that transformers 4 gave to the weights, whichever they have now."""
    new = {
        "layers.": "encoder.layer.",
        ".q_proj.": ".attention.query.",
        ".k_proj.": ".attention.key.",
        ".v_proj.": ".attention.value.",
        ".o_proj.": ".output.dense.",
        ".mlp.fc1.": ".intermediate.dense.",
        ".mlp.fc2.": ".output.dense.",
    }
    renamed = {}
    for name, tensor in state.items():
        for its, old in new.items():
            name = name.replace(its, old)
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("prefix", ["", "vit."])
@pytest.mark.parametrize("version", [4, 5])
def test_weights_load_under_the_names_of_old_and_new_versions(
    folder: Path, tmp_path: Path, version: int, prefix: str
) -> None:
    held = vits.model(vits.OTHER).state_dict()
    assert "layers.0.attention.q_proj.weight" in held
    named = as_transformers_4(held) if version == 4 else held
    assert ("encoder.layer.0.attention.attention.query.weight" in named) is (version == 4)
    copied = vits.copy(folder / "other", tmp_path / "copy")
    vits.change(copied, lambda _: {prefix + name: tensor for name, tensor in named.items()})
    assert equal(of(copied), held)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_halves_are_widened_exactly(tmp_path: Path, half: torch.dtype) -> None:
    made = vits.model(vits.OTHER).to(half)
    loaded = of(vits.save(tmp_path / "half", made))
    assert equal(loaded, {name: tensor.float() for name, tensor in made.state_dict().items()})
    assert {tensor.dtype for tensor in loaded.module.parameters()} == {torch.float32}


def test_shards_are_put_together(tmp_path: Path) -> None:
    made = vits.model(vits.ODD)
    saved = vits.save(tmp_path / "shards", made, max_shard_size="100KB")
    assert len(list(saved.glob("model-*.safetensors"))) > 2
    assert equal(of(saved), made.state_dict())


def test_a_model_for_masked_images_gives_its_encoder(tmp_path: Path) -> None:
    made = vits.model({**vits.OTHER, "encoder_stride": 8}, ViTForMaskedImageModeling)
    loaded = of(vits.save(tmp_path / "masked", made))
    assert [item.name for item in loaded.outputs] == TOKENS
    assert torch.equal(loaded.module.embeddings.cls_token, made.vit.embeddings.cls_token)  # type: ignore[union-attr]


def test_a_checkpoint_without_a_pooler_exports_its_tokens(tmp_path: Path) -> None:
    saved = vits.save(tmp_path / "bare", vits.model(vits.OTHER, add_pooling_layer=False))
    assert [item.name for item in of(saved).outputs] == TOKENS


def test_an_untrained_pooler_is_left_out_with_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, repo = f"hf:{folder / 'classifier'}", str(tmp_path / "models")
    assert main(["build", source, "--name", "m", "--repo", repo, "--quiet"]) == 0
    said = capsys.readouterr()
    assert "pooler_output is left out: untrained, its weights are not in the checkpoint" in said.out
    assert said.err == ""
    assert [item.name for item in open_artifact(tmp_path / "models" / "m").spec.outputs] == TOKENS
    assert main(["verify", f"{repo}/m", "--source", source]) == 0
    assert "agrees with hf:" in capsys.readouterr().out


def test_an_untrained_pooler_that_is_named_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["build", f"hf:{folder / 'classifier'}", "--name", "m", "--repo", str(tmp_path / "models")]
    assert main([*line, "--outputs", "last_hidden_state,pooler_output"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("vitral-export: output pooler_output is untrained")
    assert "--allow-untrained pooler_output" in said
    assert main([*line, "--outputs", "pooler_output", "--allow-untrained", "pooler_output"]) == 1
    assert "are all untrained: none could be the default" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_untrained_pooler_that_is_allowed_is_exported_and_marked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, repo = f"hf:{folder / 'classifier'}", str(tmp_path / "models")
    line = ["build", source, "--name", "m", "--repo", repo, "--allow-untrained", "pooler_output"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "(UNTRAINED)" in said
    assert "left out" not in said
    spec = open_artifact(tmp_path / "models" / "m").spec
    assert {item.name: item.trained for item in spec.outputs} == {
        **dict.fromkeys(TOKENS, True),
        "pooler_output": False,
    }
    assert list(spec.default_outputs) == ["last_hidden_state"]
    assert main(line) == 0  # the weights that are not there are those of the seed: the same again
    assert "nothing changed" in capsys.readouterr().out
    assert main(["verify", f"{repo}/m", "--source", source]) == 0
    assert main(["verify", f"{repo}/m", "--source", source, "--seed", "1"]) == 1
    assert "pooler.dense.weight differs" in capsys.readouterr().err


def test_loading_leaves_the_callers_generator_alone(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    of(folder / "classifier")
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    "act", ["relu", "quick_gelu", "silu", "gelu_pytorch_tanh", "gelu_fast", "leaky_relu", "tanh", "gelu"]
)
def test_every_usual_activation_is_read(folder: Path, tmp_path: Path, act: str) -> None:
    copied = vits.copy(folder / "other", tmp_path / act, hidden_act=act)
    assert len(stages(of(copied))) > 20


def test_an_unusual_activation_is_named(folder: Path, tmp_path: Path) -> None:
    copied = vits.copy(folder / "other", tmp_path / "mish", hidden_act="mish")
    with pytest.raises(ProofError, match=r"no rule for torch's operator aten\.mish\.default"):
        build(of(copied), name="m", repo=tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    "config",
    [
        {"num_channels": 1},
        {"image_size": [16, 24], "patch_size": [8, 4], "num_hidden_layers": 1},
        {"pooler_output_size": 24, "pooler_act": "relu"},
        {"image_size": 35},
        {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5},
        {"return_dict": False},
    ],
    ids=lambda config: next(iter(config)),
)
def test_unusual_configs_are_exported(tmp_path: Path, config: dict[str, Any]) -> None:
    made = vits.model({**vits.OTHER, **config})
    saved = vits.save(tmp_path / "saved", made, processor=False)
    spec = build(of(saved), name="m", repo=tmp_path / "models", preprocessing="none").spec
    assert spec.proof.status == pb.PROOF_STATUS_PROVEN
    shapes = {item.name: [axis.size for axis in item.axes[1:]] for item in spec.outputs}
    patches = made.embeddings.patch_embeddings.num_patches
    assert shapes["last_hidden_state"] == [patches + 1, 32]
    assert shapes["pooler_output"] == [config.get("pooler_output_size", 32)]
    assert spec.architecture.grid.height * spec.architecture.grid.width == patches


def test_a_model_in_hand_is_exported_as_the_family_it_is(tmp_path: Path) -> None:
    made = vits.model(vits.OTHER).train()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    done = vitral_export.export(made, name="m", repo=tmp_path, preprocessing="none")
    assert done.spec.source.kind == "hf"
    assert [item.name for item in done.spec.outputs] == [*TOKENS, "pooler_output"]
    assert made.training
    assert made.config._attn_implementation == "sdpa"
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())
    with pytest.raises(InvalidArgumentError, match=r"has no preprocessor_config\.json"):
        vitral_export.export(made, name="n", repo=tmp_path)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("patch-embedding", PatchEmbedding),
        ("manual-patch-embedding", ManualPatchEmbedding),
        ("vit-embedding", ViTEmbedding),
    ],
)
def test_presets_take_its_weights_and_agree_with_its_own_layers(folder: Path, name: str, cls: Any) -> None:
    loaded = load(name, Options(weights=f"hf:{folder / 'odd'}"))
    assert type(loaded.module) is cls
    assert list(loaded.preprocessing.mean) == pytest.approx(vits.MEAN)  # type: ignore[union-attr]
    vit: Any = ViTModel.from_pretrained(folder / "odd").eval()
    mine = loaded.module.eval()
    held = load_file(folder / "odd" / "model.safetensors")
    weight = dict(mine.named_parameters())["projection.weight" if cls is not ViTEmbedding else _CONV]
    its = held["embeddings.patch_embeddings.projection.weight"]
    assert torch.equal(weight.flatten(1), its.flatten(1))
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        found = loaded.compute(mine, images)
        patches, tokens = vit.embeddings.patch_embeddings(images), vit.embeddings(images)
    if cls is ManualPatchEmbedding:  # another order of the same sums
        assert torch.allclose(found["patch_embeddings"], patches, rtol=0, atol=3e-6)
        return
    assert torch.equal(found["patch_embeddings"], patches)
    if cls is ViTEmbedding:
        assert torch.equal(found["embeddings"], tokens)


_CONV = "patch_embedding.projection.weight"


def test_a_preset_with_its_weights_is_verified_against_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = ["--weights", f"hf:{folder / 'other'}"]
    line = ["--name", "m", "--repo", str(tmp_path), "--outputs", "patch_embeddings", *weights]
    assert main(["build", "vit-embedding", *line]) == 0
    assert open_artifact(tmp_path / "m").spec.source.weights_note == "weights of other"
    assert main(["verify", str(tmp_path / "m"), "--source", "vit-embedding", *weights]) == 0
    assert "agrees with vit-embedding" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "options", "config", "message"),
    [
        ("patch-embedding", {"patch_size": 16}, {}, r"--patch-size is 16, that of hf:.* is 8"),
        ("patch-embedding-2d-position", {}, {}, "has positions that a Hugging Face ViT does not have"),
        ("position-embedding-2d", {}, {}, "has positions that a Hugging Face ViT does not have"),
        ("patch-embedding", {}, {"image_size": [16, 64]}, "images of 16 x 64 and patches of 8 x 8"),
    ],
)
def test_presets_that_cannot_take_its_weights_say_so(
    folder: Path, tmp_path: Path, name: str, options: Any, config: Any, message: str
) -> None:
    copied = vits.copy(folder / "other", tmp_path / "copy", **config)
    with pytest.raises(InvalidArgumentError, match=message):
        load(name, Options(weights=f"hf:{copied}", **options))
