"""The verifier is held to planted faults: each is caught, by exactly the nets that are said to see it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.faults import FAULTS
from benchmarks.faults.models import MODELS, Sound, export
from benchmarks.faults.nets import Nets
from torch import Tensor
from torch.nn import functional

import vitral_export
from vitral.errors import ProofError
from vitral.v1 import model_pb2 as pb
from vitral_export import artifact, fold, structure, verify
from vitral_export.build import build
from vitral_export.modules import PatchEmbedding, ViTEmbedding
from vitral_export.sources import Options, given, load
from vitral_export.wrap import Inference

BOTH, STRUCTURE = {"structure", "numbers"}, {"structure"}
CAUGHT = {
    "nan_weight": BOTH,
    "batch_in_the_signature": BOTH,
    "batch_in_a_reshape": BOTH,
    "batch_of_three": BOTH,
    "batch_between_reshapes": BOTH,
    "grid_turned": BOTH,
    "picture_turned": BOTH,
    "wrong_mean_and_std": BOTH,
    "wrong_mean": BOTH,
    "around_127": BOTH,
    "bgr": BOTH,
    "tensor": BOTH,
    "tensor_folded": BOTH,
    "scalar": BOTH,
    "scalar_folded": BOTH,
    "last_bit": STRUCTURE,
    "last_bit_folded": STRUCTURE,
    "channels_last": BOTH,
    "values_turned": BOTH,
    "values_turned_uint8": BOTH,
    "hand_cut_grid_turned": BOTH,
    "positions_off_by_one": BOTH,
    "cls_row_for_patches": BOTH,
    "positions_left_out": BOTH,
    "cls_behind": BOTH,
    "cls_behind_uint8": BOTH,
    "dropout": BOTH,
    "halves_swapped": BOTH,
    "columns_for_rows": BOTH,
    "outputs_swapped": BOTH,
    "query_and_key": BOTH,
    "query_and_key_uint8": BOTH,
    "scale": BOTH,
    "softmax": BOTH,
    "heads": BOTH,
    "epsilon": STRUCTURE,
    "norms": BOTH,
    "gelu": BOTH,
    "residual": BOTH,
    "pooler": BOTH,
    "nan_in_the_pooler": BOTH,
    "encoder_tensor": BOTH,
    "encoder_scalar": BOTH,
    "encoder_last_bit": STRUCTURE,
    "distillation": BOTH,
    "no_bias": BOTH,
    "bias_turned": BOTH,
    "registers": BOTH,
    "register_first": BOTH,
    "gates": BOTH,
    "sine_and_cosine": BOTH,
    "rotation": BOTH,
    "rotary_columns": BOTH,
    "before_the_mlp": BOTH,
}
SMALL = Options(img_size=32, patch_size=8, embed_dim=16)
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "verification.md"

Models = Callable[[str], tuple[Sound, Nets]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A model's sound export and both nets for it, made when it is first asked for."""
    made: dict[str, tuple[Sound, Nets]] = {}

    def model(name: str) -> tuple[Sound, Nets]:
        if name not in made:
            sound = export(name, tmp_path_factory.mktemp(name) / "sound")
            made[name] = sound, Nets(sound)
        return made[name]

    return model


def test_every_fault_has_its_nets_and_every_model_its_faults() -> None:
    assert set(CAUGHT) == set(FAULTS)
    assert {fault.model for fault in FAULTS.values()} == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_a_sound_export_is_caught_by_no_net(models: Models, model: str) -> None:
    sound, nets = models(model)
    assert nets.caught(sound.folder) == {"structure": set(), "numbers": set()}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught_in_every_graph_that_has_it(
    models: Models, tmp_path: Path, name: str
) -> None:
    fault = FAULTS[name]
    sound, nets = models(fault.model)
    folder = tmp_path / "planted"
    shutil.copytree(sound.folder, folder)
    fault.plant(folder)
    expected = {net: set(fault.files) if net in CAUGHT[name] else set() for net in ("structure", "numbers")}
    assert nets.caught(folder) == expected


def test_the_document_lists_every_fault_with_its_nets() -> None:
    table = re.findall(
        r"^\| ([^|]+) \| ([a-z0-9-]+) \| (caught|not seen) \| (caught|not seen) \|", _said(), re.M
    )
    expected = [
        (
            fault.what,
            fault.model,
            *("caught" if net in CAUGHT[name] else "not seen" for net in ("structure", "numbers")),
        )
        for name, fault in FAULTS.items()
    ]
    assert table == expected


def _said() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("fault", ["nan_weight", "grid_turned", "scalar", "last_bit"])
def test_an_export_with_a_fault_installs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    sound = artifact.write_graphs

    def planted(folder: Path, wrapped: Inference, loaded: object, *, name: str, opset: int) -> pb.ModelSpec:
        spec = sound(folder, wrapped, loaded, name=name, opset=opset)  # type: ignore[arg-type]
        FAULTS[fault].plant(folder)
        return spec

    monkeypatch.setattr(artifact, "write_graphs", planted)
    loaded = load("patch-embedding", SMALL)
    with pytest.raises(ProofError, match=r"^structure: model"):
        build(loaded, name="m", repo=tmp_path / "models")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(structure, "check", lambda *_: [])
    if "numbers" in CAUGHT[fault]:
        with pytest.raises(ProofError, match=r"^numbers: model"):
            build(loaded, name="m", repo=tmp_path / "models")
        assert not list(tmp_path.iterdir())


class AlwaysTraining(PatchEmbedding):
    """Drops tokens out whatever mode it is in."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return functional.dropout(super().forward(pixel_values), 0.1, training=True)


class RandomPositions(PatchEmbedding):
    """Drops out what does not depend on the image, which might be taken for a constant."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        positions = torch.ones(self.num_patches, self.embed_dim)
        return super().forward(pixel_values) + functional.dropout(positions, 0.5, training=True)


class Noisy(PatchEmbedding):
    """Adds noise of its own."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return super().forward(pixel_values) + torch.rand(self.num_patches, self.embed_dim)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (AlwaysTraining, "structure: native_dropout drops values out: the module is left in training mode"),
        (RandomPositions, "structure: native_dropout drops values out: the module is left in training mode"),
        (Noisy, r"structure: no rule for torch's operator aten\.rand\.default"),
    ],
)
def test_a_module_that_rolls_dice_in_eval_mode_is_refused_by_both_nets(
    tmp_path: Path, make: type[PatchEmbedding], message: str
) -> None:
    module = make(32, 8, 3, 16)
    with pytest.raises(ProofError, match=message):
        vitral_export.export(module, name="m", repo=tmp_path / "models")
    assert not list(tmp_path.iterdir())
    loaded = given(module)
    spec = artifact.write_graphs(tmp_path, Inference(loaded), loaded, name="m", opset=20)
    with pytest.raises(ProofError, match="numbers: the module gives other values for embeddings each time"):
        verify.references_of(spec, Inference(loaded))


def test_a_module_in_training_mode_is_exported_in_eval_mode(tmp_path: Path) -> None:
    module = ViTEmbedding(32, 8, 3, 16, dropout=0.5).train()
    assert vitral_export.export(module, name="m", repo=tmp_path).changed


def test_a_module_whose_output_overflows_is_refused(tmp_path: Path) -> None:
    loaded = load("patch-embedding", SMALL)
    for parameter in loaded.module.parameters():
        parameter.requires_grad_(False).fill_(3e37)
    with pytest.raises(ProofError, match=r"the module itself gives NaN or Inf in patch_embeddings"):
        build(loaded, name="m", repo=tmp_path / "models", preprocessing="none")


def test_a_wrong_folding_rule_cannot_set_its_own_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both nets take the rule from one place, so the rule itself is held against the module's own form."""
    right = fold.folded_weights

    def without_the_shift(weight: Any, bias: Any, preprocessing: pb.Preprocessing, *, channels: Any) -> Any:
        folded, _ = right(weight, bias, preprocessing, channels=channels)
        return folded, bias

    monkeypatch.setattr(fold, "folded_weights", without_the_shift)
    loaded = load("patch-embedding", SMALL)
    with pytest.raises(ProofError, match=r"^numbers: folding normalisation moves patch_embeddings"):
        build(loaded, name="m", repo=tmp_path / "models")
    assert not list(tmp_path.iterdir())
