"""Google's checkpoints against a forward pass written from their names alone, in every layout there is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import google_checkpoints as google_files
import numpy as np
import pytest
import torch
from google_checkpoints import GRID, LAYOUTS, PATCH, SIDE, WIDTH, Layout
from numpy.typing import NDArray
from torch import nn

from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import open_artifact
from vitral_export import structure
from vitral_export.cli import main
from vitral_export.families import google
from vitral_export.loaded import Loaded, Options
from vitral_export.sources import load
from vitral_export.wrap import Inference

TOKENS = ["last_hidden_state", "patch_embeddings", "embeddings"]
FLOAT32, FLOAT64 = 1e-6, 1e-12  # relative L2


def saved(tmp_path: Path, name: str) -> str:
    return f"npz:{google_files.save(tmp_path / f'{name}.npz', google_files.arrays(LAYOUTS[name]))}"


def error(loaded: Loaded, module: nn.Module, layout: Layout, *, exact: bool) -> dict[str, float]:
    """Relative L2 of each output against the forward pass in NumPy."""
    rows = google_files.images(3)
    truth = google_files.flax(layout, google_files.arrays(layout), exact=exact).outputs(rows)
    kind = next(module.parameters()).dtype
    with torch.no_grad():
        found = loaded.compute(module, torch.from_numpy(rows).to(kind))
    return {name: _relative(found[name].double().numpy(), truth[name]) for name in truth}


def _relative(mine: NDArray[Any], truth: NDArray[Any]) -> float:
    assert mine.shape == truth.shape
    return float(np.linalg.norm(mine - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("exact", [False, True], ids=["transformers", "jax-exact"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_computes_what_its_names_say(tmp_path: Path, name: str, exact: bool) -> None:
    loaded = load(saved(tmp_path, name), Options(jax_exact=exact))
    layout = LAYOUTS[name]
    told = error(loaded, loaded.module, layout, exact=exact)
    expected = {*TOKENS} | ({"pooler_output"} if layout.pre_logits or layout.map_head else set())
    assert set(told) == expected
    assert max(told.values()) < FLOAT32
    assert max(error(loaded, loaded.module.double(), layout, exact=exact).values()) < FLOAT64


@pytest.mark.parametrize("name", LAYOUTS)
def test_sizes_and_outputs_are_read_from_the_arrays(tmp_path: Path, name: str) -> None:
    loaded, layout = load(saved(tmp_path, name), Options()), LAYOUTS[name]
    sizes = loaded.architecture
    assert (sizes.image_size.height, sizes.image_size.width) == (SIDE, SIDE)
    assert (sizes.patch_size.height, sizes.in_channels, sizes.embed_dim) == (PATCH, 3, WIDTH)
    assert (sizes.grid.height, sizes.grid.width) == (GRID, GRID)
    names = [item.name for item in loaded.outputs]
    assert names == TOKENS + ["pooler_output"] * bool(layout.pre_logits or layout.map_head)
    assert loaded.left_out == (("pooler_output",) if layout.cls and not layout.pre_logits else ())
    assert list(loaded.outputs[0].prefix_tokens) == [pb.PREFIX_TOKEN_CLS] * layout.cls
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.contract == "google-tf"


@pytest.mark.parametrize(
    ("name", "exact", "said"),
    [
        ("augreg", False, "transformers' LayerNorm eps 1e-12 and erf GELU"),
        ("augreg", True, "the checkpoint's own LayerNorm eps 1e-06 and tanh GELU"),
        ("siglip", False, "the checkpoint's own LayerNorm eps 1e-06 and tanh GELU"),
    ],
)
def test_the_source_says_whose_arithmetic_it_is(tmp_path: Path, name: str, exact: bool, said: str) -> None:
    where = saved(tmp_path, name)
    source = load(where, Options(jax_exact=exact)).source
    assert (source.kind, source.reference, source.revision) == ("npz", f"{name}.npz", "")
    assert source.weights == pb.WEIGHTS_ORIGIN_CHECKPOINT
    assert source.weights_note == f"weights of {name}.npz, {said}"
    assert source.weights_sha256 == hashlib.sha256(Path(where[4:]).read_bytes()).hexdigest()
    assert "transformers" in source.libraries


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_halves_are_widened_exactly(tmp_path: Path, half: str) -> None:
    layout = LAYOUTS["augreg"]
    wide = {
        key: torch.from_numpy(array).to(getattr(torch, half))
        for key, array in google_files.arrays(layout).items()
    }
    stored: dict[str, NDArray[Any]] = {
        key: tensor.view(torch.int16).numpy().view("V2" if half == "bfloat16" else np.float16)
        for key, tensor in wide.items()
    }
    module: Any = load(f"npz:{google_files.save(tmp_path / 'half.npz', stored)}", Options()).module
    own = wide["embedding/kernel"].float().permute(3, 2, 0, 1)
    assert torch.equal(module.embeddings.patch_embeddings.projection.weight, own)
    assert {tensor.dtype for tensor in module.parameters()} == {torch.float32}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A checkpoint and its export, with the checkpoint's own arithmetic. Read only."""
    folder = tmp_path_factory.mktemp("google")
    source, repo = saved(folder, "augreg"), folder / "models"
    assert main(["build", source, "--name", "m", "--repo", str(repo), "--jax-exact"]) == 0
    return source, repo / "m"


def test_a_checkpoint_is_exported_and_proven(exported: tuple[str, Path]) -> None:
    source, model = exported
    spec = open_artifact(model).spec
    assert spec.proof.status == pb.PROOF_STATUS_PROVEN
    assert spec.source.weights_note.endswith(", the checkpoint's own LayerNorm eps 1e-06 and tanh GELU")
    assert [item.name for item in spec.outputs] == TOKENS
    assert "epsilon" in otherwise(model, load(source, Options()))[0]


def otherwise(model: Path, loaded: Loaded) -> list[str]:
    """What an export does otherwise than a source, by the structural net."""
    held = open_artifact(model)
    return structure.check(held.folder, held.spec, Inference(loaded))


def test_a_checkpoint_without_a_cls_token_is_exported_with_its_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["build", saved(tmp_path, "siglip"), "--name", "m", "--repo", str(tmp_path / "models")]
    assert main([*line, "--preprocessing", "none"]) == 0
    assert "left out" not in capsys.readouterr().out
    spec = open_artifact(tmp_path / "models" / "m").spec
    assert {item.name: item.trained for item in spec.outputs} == dict.fromkeys(
        [*TOKENS, "pooler_output"], True
    )


def _flipped(layer: nn.Conv2d) -> dict[str, torch.Tensor]:
    """Width and height of a patch taken for each other: OIHW read as if WHIO were HWIO."""
    return {"embedding/kernel": layer.weight.permute(3, 2, 1, 0), "embedding/bias": layer.bias}  # type: ignore[dict-item]


FAULTS: dict[str, tuple[str, Any]] = {
    "patch turned": ("_stem", _flipped),
    "epsilon": ("_EXACT", {"layer_norm_eps": 1e-5, "hidden_act": "gelu_pytorch_tanh"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_reader_is_caught(
    exported: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    source, model = exported
    monkeypatch.setattr(google, *FAULTS[fault])
    loaded = load(source, Options(jax_exact=True))
    assert otherwise(model, loaded) != []
    found = error(loaded, loaded.module.double(), LAYOUTS["augreg"], exact=True)
    assert found["last_hidden_state"] > 1e3 * FLOAT64
