"""The verifier is held to planted faults: each is caught, by exactly the nets that are said to see it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from export_faults import FAULTS

from vitral.errors import ProofError
from vitral.v1 import model_pb2 as pb
from vitral_engine.device import place
from vitral_export import artifact, fold, numbers, structure, verify
from vitral_export.build import build
from vitral_export.sources import Options, load
from vitral_export.truth import Reference
from vitral_export.wrap import Inference

BOTH, STRUCTURE = {"structure", "numbers"}, {"structure"}
CAUGHT = {
    "nan_weight": BOTH,
    "batch_frozen_in_the_signature": BOTH,
    "batch_frozen_in_a_reshape": BOTH,
    "rows_and_columns_swapped": BOTH,
    "wrong_mean_and_std": BOTH,
    "wrong_mean": BOTH,
    "folded_around_127": BOTH,
    "bgr_for_rgb": BOTH,
    "tensor_scaled": BOTH,
    "folded_tensor_scaled": BOTH,
    "scalar_changed": BOTH,
    "folded_scalar_changed": BOTH,
    "last_bit_changed": STRUCTURE,
}


@dataclass(frozen=True)
class Staged:
    folder: Path
    spec: pb.ModelSpec
    wrapped: Inference
    references: dict[str, Reference]

    def nets(self) -> set[str]:
        """Which nets find something, each asked by itself."""
        found = set()
        if structure.check(self.folder, self.spec, self.wrapped):
            found.add("structure")
        try:
            for graph in self.spec.graphs:
                known = self.references[graph.file]
                numbers.demand(numbers.check(self.folder, graph, self.spec, known, [place("cpu")]))
        except ProofError:
            found.add("numbers")
        return found


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    folder = tmp_path_factory.mktemp("sound")
    loaded = load("patch-embedding", Options(img_size=32, patch_size=8, embed_dim=16))
    wrapped = Inference(loaded)
    spec = artifact.write_graphs(folder, wrapped, loaded, name="m", opset=20)
    return Staged(folder, spec, wrapped, verify.references_of(spec, wrapped))


def test_every_fault_has_its_nets() -> None:
    assert set(CAUGHT) == set(FAULTS)


def test_a_sound_export_is_caught_by_no_net(sound: Staged) -> None:
    assert sound.nets() == set()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(sound: Staged, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "planted"
    shutil.copytree(sound.folder, folder)
    FAULTS[fault](folder)
    assert Staged(folder, sound.spec, sound.wrapped, sound.references).nets() == CAUGHT[fault]


@pytest.mark.parametrize(
    "fault", ["nan_weight", "rows_and_columns_swapped", "scalar_changed", "last_bit_changed"]
)
def test_an_export_with_a_fault_installs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    sound = artifact.write_graphs

    def planted(folder: Path, wrapped: Inference, loaded: object, *, name: str, opset: int) -> pb.ModelSpec:
        spec = sound(folder, wrapped, loaded, name=name, opset=opset)  # type: ignore[arg-type]
        FAULTS[fault](folder)
        return spec

    monkeypatch.setattr(artifact, "write_graphs", planted)
    loaded = load("patch-embedding", Options(img_size=32, patch_size=8, embed_dim=16))
    with pytest.raises(ProofError, match=r"^structure: model"):
        build(loaded, name="m", repo=tmp_path / "models")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(structure, "check", lambda *_: [])
    if "numbers" in CAUGHT[fault]:
        with pytest.raises(ProofError, match=r"^numbers: model"):
            build(loaded, name="m", repo=tmp_path / "models")
        assert not list(tmp_path.iterdir())


def test_a_module_whose_output_overflows_is_refused(tmp_path: Path) -> None:
    loaded = load("patch-embedding", Options(img_size=32, patch_size=8, embed_dim=16))
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
    loaded = load("patch-embedding", Options(img_size=32, patch_size=8, embed_dim=16))
    with pytest.raises(ProofError, match=r"^numbers: folding normalisation moves patch_embeddings"):
        build(loaded, name="m", repo=tmp_path / "models")
    assert not list(tmp_path.iterdir())
