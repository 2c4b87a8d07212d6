"""Each family of transformers' Vision Transformers: loaded, proven, and served as the library computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import family_checkpoints as families
import numpy as np
import pytest
import torch
import transformers
import vit_checkpoints as vits
from torch import Tensor
from transformers import ViTImageProcessorPil

import vitral_engine
import vitral_export
from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_export.build import build
from vitral_export.families import hidden, table
from vitral_export.loaded import Loaded, Options
from vitral_export.sources import load

COMMON = ["last_hidden_state", "patch_embeddings", "embeddings"]
FIRST = "hidden_states.1"
POOLED = {"vit", "deit", "beit", "beit shared", "dinov2", "dinov2 with registers", "dinov3", "clip", "siglip"}
NO_LAST_NORM = {"beit"}


def of(folder: Path, **options: Any) -> Loaded:
    return load(f"hf:{folder}", Options(**options))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a checkpoint, written when it is first asked for."""
    folder = tmp_path_factory.mktemp("families")

    def written(name: str) -> Path:
        target = folder / name
        return target if target.exists() else families.save(name, target)

    return written


@pytest.fixture(scope="module")
def rows() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 3, families.SIDE, families.SIDE)


def close(mine: Array, its: Tensor) -> bool:
    """Within what float32 rounds in so small a model."""
    truth = its.double().numpy()
    return bool(mine.shape == truth.shape and np.linalg.norm(mine - truth) <= 3e-6 * np.linalg.norm(truth))


@pytest.mark.parametrize("name", families.CHECKPOINTS)
def test_a_family_is_served_as_its_library_computes_it(
    checkpoints: Callable[[str], Path], tmp_path: Path, rows: Tensor, name: str
) -> None:
    normed = [] if name in NO_LAST_NORM else [f"{FIRST}.normed"]
    pooled = ["pooler_output"] if name in POOLED else []
    names = (*COMMON, *pooled, FIRST, *normed)
    loaded = of(checkpoints(name), outputs=names)
    done = build(loaded, name="m", repo=tmp_path, preprocessing="none")
    assert done.spec.proof.status == pb.PROOF_STATUS_PROVEN
    served = vitral_engine.open(done.path, device="cpu").session_for(names, prepared=True).run(rows.numpy())
    oracle = families.library(name, rows)
    for output in ("last_hidden_state", *pooled, FIRST):
        assert close(served[output], oracle[output]), output
    assert close(served["embeddings"], oracle["hidden_states.0"])
    assert close(served["patch_embeddings"], patches(loaded, rows))
    if normed:
        norm: Any = table.of_module(loaded.module).last_norm(loaded.module)  # type: ignore[union-attr]
        with torch.no_grad():
            assert close(served[normed[0]], norm(oracle[FIRST]))


def patches(loaded: Loaded, rows: Tensor) -> Tensor:
    """Each patch through the projection as one product, in row-major order."""
    layer: Any = table.of_module(loaded.module).projection(loaded.module)  # type: ignore[union-attr]
    side = layer.kernel_size[0]
    cut = torch.nn.functional.unfold(rows.double(), side, stride=side)  # B C H W -> B (C P P) N
    found = cut.transpose(1, 2) @ layer.weight.detach().double().flatten(1).T
    return found if layer.bias is None else found + layer.bias.detach().double()


@pytest.mark.parametrize("name", families.CHECKPOINTS)
def test_what_is_said_of_a_family_is_what_its_library_does(
    checkpoints: Callable[[str], Path], rows: Tensor, name: str
) -> None:
    saved, oracle = families.CHECKPOINTS[name], families.library(name, rows)
    loaded = of(checkpoints(name))
    family: Any = table.of_module(loaded.module)
    assert type(loaded.module).__name__ == saved.cls == family.cls
    assert len(family.blocks(loaded.module)) == saved.depth
    assert family.interpolates is not name.startswith("beit")
    outputs = {item.name: item for item in loaded.outputs}
    assert ("pooler_output" in outputs) is ("pooler_output" in oracle) is (name in POOLED)
    tokens = outputs["last_hidden_state"]
    assert len(tokens.prefix_tokens) == saved.prefix
    assert tokens.image_dependent_prefix is (saved.prefix > 0)
    assert [axis.size for axis in tokens.axes] == [0, *oracle["last_hidden_state"].shape[1:]]
    assert not outputs["embeddings"].image_dependent_prefix
    front = oracle["hidden_states.0"][:, : saved.prefix]
    assert torch.equal(front, front[:1].expand_as(front))  # one for all images
    behind = oracle["hidden_states.0"][:, saved.prefix :]
    assert not torch.equal(behind[0], behind[1])
    after = oracle["last_hidden_state"][:, : saved.prefix]
    assert all(not torch.equal(after[0, at], after[1, at]) for at in range(saved.prefix))
    norm = family.last_norm(loaded.module)
    assert (norm is None) is (name in NO_LAST_NORM)
    last = oracle[f"hidden_states.{saved.depth}"]
    with torch.no_grad():
        goes_through_it = norm is not None and torch.equal(norm(last), oracle["last_hidden_state"])
    assert goes_through_it is (norm is not None and family.norm_is_last)
    assert goes_through_it or torch.equal(last, oracle["last_hidden_state"])


def test_hidden_states_are_exported_only_when_they_are_named(checkpoints: Callable[[str], Path]) -> None:
    folder = checkpoints("vit")
    assert [item.name for item in of(folder).outputs] == [*COMMON, "pooler_output"]
    (state,) = of(folder, outputs=("hidden_states.2.normed",)).outputs
    assert state.meaning == "tokens after block 2 of 2, through the model's last LayerNorm"
    assert list(state.prefix_tokens) == [pb.PREFIX_TOKEN_CLS]
    assert state.image_dependent_prefix


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("vit", "hidden_states.3", "there are hidden_states.1 to hidden_states.2, each with .normed too"),
        ("vit", "hidden_states.0", "there are hidden_states.1 to hidden_states.2"),
        ("vit", "hidden_states.01", "there are hidden_states.1 to hidden_states.2"),
        ("vit", "hidden_states", "there are hidden_states.1 to hidden_states.2"),
        ("vit", "hidden_state.1", r"known are .*, hidden_states.1 to hidden_states.2, each with .normed too"),
        ("beit", "hidden_states.2", "there are hidden_states.1$"),
        ("beit", "hidden_states.1.normed", "the model has no last LayerNorm"),
    ],
)
def test_a_hidden_state_that_is_not_there_is_told_with_those_there_are(
    checkpoints: Callable[[str], Path], family: str, name: str, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"there is no output '{name}'.*{message}"):
        of(checkpoints(family), outputs=(name,))


@pytest.mark.parametrize("name", ["clip", "dinov2 with registers", "vit mae"])
def test_a_model_of_a_family_in_hand_is_known(name: str) -> None:
    saved = families.CHECKPOINTS[name]
    tower = saved.tower(saved.make())
    before = dict(vars(tower.config))
    loaded = vitral_export.sources.given(tower)
    assert loaded.source.kind == "hf"
    assert loaded.outputs[0].name == "last_hidden_state"
    assert len(loaded.outputs[0].prefix_tokens) == saved.prefix
    loaded.compute(tower, torch.zeros(1, 3, families.SIDE, families.SIDE))
    assert vars(tower.config) == before
    assert "random_masking" not in vars(tower.embeddings)


def test_tensors_that_are_not_read_may_be_of_any_type(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    for name, key in (
        ("clip", "vision_model.embeddings.position_ids"),
        ("clip", "text_model.embeddings.position_ids"),
        ("beit", "encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"),
    ):
        copied = vits.copy(checkpoints(name), tmp_path / key)
        vits.change(copied, lambda held, key=key: held | {key: torch.arange(5)})
        assert of(copied).outputs


def test_presets_take_the_weights_of_families_that_embed_as_they_do(
    checkpoints: Callable[[str], Path], rows: Tensor
) -> None:
    embedded = load("vit-embedding", Options(weights=f"hf:{checkpoints('vit msn')}"))
    with torch.no_grad():
        mine = embedded.compute(embedded.module.eval(), rows)["embeddings"]
    assert torch.equal(mine, families.library("vit msn", rows)["hidden_states.0"])
    for name, message in (
        ("deit", r"position_embedding is \(1, 65, 32\), .* has \(66, 32\)"),
        ("clip", r"projection.bias is \(32,\), .* has none"),
        ("siglip", r"cls_token is \(1, 1, 32\), .* has none"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            load("vit-embedding", Options(weights=f"hf:{checkpoints(name)}"))


def test_the_registers_of_a_dinov3_are_those_of_its_config() -> None:
    config = transformers.DINOv3ViTConfig(**vits.OTHER_SIZES, num_register_tokens=3)
    tokens = vitral_export.sources.given(transformers.DINOv3ViTModel(config)).outputs[0]
    assert list(tokens.prefix_tokens) == [pb.PREFIX_TOKEN_CLS, *[pb.PREFIX_TOKEN_REGISTER] * 3]
    assert [axis.size for axis in tokens.axes] == [0, 1 + 3 + 16, 32]


def test_a_model_that_interpolates_by_itself_is_exported_for_what_its_processor_gives(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    copied = vits.copy(checkpoints("dinov2"), tmp_path / "copy")
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(copied)
    assert sides(of(copied)) == (24, 24, 6)
    assert sides(of(copied, img_size=40)) == (40, 40, 10)
    assert sides(of(checkpoints("dinov2"))) == (32, 32, 8)
    with pytest.raises(InvalidArgumentError, match="source a vit model takes no --img-size"):
        of(checkpoints("vit"), img_size=40)
    loaded = of(copied)
    done = build(loaded, name="m", repo=tmp_path / "models", preprocessing="none")
    torch.manual_seed(3)
    rows = torch.randn(2, 3, 24, 24)
    served = vitral_engine.open(done.path, device="cpu").session_for(COMMON, prepared=True).run(rows.numpy())
    with torch.no_grad():
        oracle = transformers.Dinov2Model.from_pretrained(copied).eval()(rows)
    assert close(served["last_hidden_state"], oracle.last_hidden_state)


def sides(loaded: Loaded) -> tuple[int, int, int]:
    """Height and width of the images, and rows of patches."""
    told = loaded.architecture
    return told.image_size.height, told.image_size.width, told.grid.height


POOLERS: Mapping[str, tuple[Any, Any]] = {
    "deit": (transformers.DeiTForImageClassificationWithTeacher, transformers.DeiTConfig),
    "beit": (transformers.BeitForMaskedImageModeling, transformers.BeitConfig),
    "vit": (transformers.ViTForImageClassification, transformers.ViTConfig),
}


@pytest.mark.parametrize("name", POOLERS)
def test_a_pooler_that_the_checkpoint_lacks_is_untrained(tmp_path: Path, name: str) -> None:
    cls, config = POOLERS[name]
    saved = vits.save(tmp_path / "saved", vits.trained(cls, config(**vits.OTHER_SIZES)), processor=False)
    loaded = of(saved)
    assert [item.name for item in loaded.outputs] == COMMON
    assert loaded.left_out == ("pooler_output",)
    with pytest.raises(InvalidArgumentError, match="output pooler_output is untrained"):
        of(saved, outputs=("pooler_output",))


def test_a_siglip_without_its_head_has_no_pooler(tmp_path: Path) -> None:
    config = transformers.SiglipVisionConfig(**vits.OTHER_SIZES, vision_use_head=False)
    made = vits.trained(transformers.SiglipVisionModel, config)
    assert [item.name for item in of(vits.save(tmp_path / "s", made, processor=False)).outputs] == COMMON


def test_a_weight_of_the_encoder_that_is_missing_is_named(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    for name, weight in (("dinov2", "layer_scale1.lambda1"), ("clip", "post_layernorm.bias")):
        copied = vits.copy(checkpoints(name), tmp_path / name)
        vits.change(copied, lambda held, gone=weight: {k: v for k, v in held.items() if gone not in k})
        with pytest.raises(InvalidArgumentError, match=rf"lacks .*{weight}"):
            of(copied)


@pytest.mark.parametrize("kind", ["siglip2", "siglip2_vision_model"])
def test_naflex_is_refused_by_name(checkpoints: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    copied = vits.copy(checkpoints("siglip"), tmp_path / "copy", model_type=kind)
    with pytest.raises(UnsupportedError, match=f"a {kind} model cannot be exported: its patches come in as"):
        of(copied)


def test_the_range_of_a_model_of_one_block_is_that_block(tmp_path: Path) -> None:
    loaded = of(vits.save(tmp_path / "one", vits.model(vits.OTHER)))
    family: Any = table.of_module(loaded.module)
    assert hidden.known(loaded.module, family) == "hidden_states.1, each with .normed too"
