"""Modules of one's own, from a factory or in hand, and weights from files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vitral_engine
import vitral_export
from vitral.errors import InvalidArgumentError, ProofError, UnsupportedError, VitralError
from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import open_artifact
from vitral_export.cli import main
from vitral_export.loaded import Options
from vitral_export.modules import PatchEmbedding, PatchEmbedding2DPosition, ViTEmbedding
from vitral_export.sources import load

SIZES = ("--img-size", "32", "--patch-size", "8")
SMALL = Options(img_size=32, patch_size=8, embed_dim=16)


class Block(nn.Module):
    """Attention from one product for query, key and value, and a mean over the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, 16))
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("shift", torch.randn(16))
        self.unused = nn.Linear(4, 4)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        x = self.patches(pixels).flatten(2).transpose(1, 2)  # B C H W -> B N D
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1)
        batch, count, width = x.shape
        parts = self.qkv(self.norm(x)).reshape(batch, count, 3, 2, 8).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        y = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.drop(y.transpose(1, 2).reshape(batch, count, width)) + self.shift
        return {"tokens": nn.functional.silu(x), "mean": x[:, 1:].mean(dim=1)}


def factory(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A module file in the working folder."""
    (folder / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{body}\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


def test_a_module_with_attention_is_served_as_torch_computes_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Block().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    options = Options(img_size=32, prefix_tokens=("cls",))
    done = vitral_export.export(module, name="own", repo=tmp_path, options=options)
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert [graph.file for graph in done.spec.graphs] == ["model_uint8.onnx", "model.onnx"]
    assert list(done.spec.outputs[0].prefix_tokens) == [pb.PREFIX_TOKEN_CLS]
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    model = vitral_engine.open(done.path, device="cpu")
    [found] = model.embed([picture], outputs=["tokens", "mean"])
    model.close()
    rows = torch.from_numpy((picture.transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5)
    with torch.inference_mode():
        truth = module.double().eval()(rows)
    for name, tensor in truth.items():
        assert np.allclose(found.outputs[name], tensor[0].numpy(), rtol=0, atol=1e-5), name
    assert found.patches.shape == (16, 16)
    assert np.array_equal(found.cls, found.outputs["tokens"][0])


def test_a_factory_in_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factory(tmp_path, "def make():\n    return nn.Conv2d(3, 4, 8, 8)", monkeypatch, "own_found")
    line = ["build", "python:own_found:make", "--name", "m", "--repo", str(tmp_path / "models")]
    assert main([*line, "--img-size", "32"]) == 0
    spec = open_artifact(tmp_path / "models" / "m").spec
    assert (spec.source.kind, spec.source.reference) == ("python", "own_found:make")
    assert [axis.size for axis in spec.outputs[0].axes] == [0, 4, 4, 4]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("nothing", "", "has no function make"),
        ("broken", "raise RuntimeError('no luck')", "cannot be imported: no luck"),
        ("failing", "def make():\n    raise ValueError('no weights')", r"make\(\) failed: no weights"),
        ("other", "def make():\n    return 5", r"make\(\) gives int, not an nn.Module"),
    ],
)
def test_factories_that_make_no_module_are_refused(
    name: str, body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory(tmp_path, body, monkeypatch, f"own_{name}")
    with pytest.raises(InvalidArgumentError, match=message):
        load(f"python:own_{name}:make", Options())


@pytest.mark.parametrize("name", ["python:", "python:module", "python::make", "python:no_such_module:make"])
def test_factories_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"is not python:MODULE:FACTORY|cannot be imported"):
        load(name, Options())


class Given(nn.Module):
    """Gives whatever it is told to."""

    def __init__(self, give: Any) -> None:
        super().__init__()
        self.give = give

    def forward(self, pixels: Tensor) -> Any:
        return self.give(pixels)


@pytest.mark.parametrize(
    ("give", "error", "message"),
    [
        (lambda x: 5, UnsupportedError, "gives int, not tensors"),
        (lambda x: {}, UnsupportedError, "gives no tensor"),
        (lambda x: x.long(), UnsupportedError, "embeddings is"),
        (lambda x: x[:1], UnsupportedError, "has 1 rows for 2 images|1 x 3 x 32 x 32"),
        (lambda x: x.reshape(len(x), -1), ProofError, r"fixes the number of images"),
        (lambda x: torch.fft.fft(x).real, ProofError, "torch"),
        (lambda x: x @ torch.zeros(5, 5), InvalidArgumentError, "does not take images of 3 x 32 x 32"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    give: Any, error: type[VitralError], message: str, tmp_path: Path
) -> None:
    options = Options(img_size=32, patch_size=8)
    with pytest.raises(error, match=message):
        vitral_export.export(Given(give), name="m", repo=tmp_path / "models", options=options)
    assert not list(tmp_path.iterdir())


def test_prefix_tokens_that_are_unknown_are_refused(tmp_path: Path) -> None:
    options = Options(img_size=32, prefix_tokens=("head",))
    with pytest.raises(InvalidArgumentError, match="prefix token 'head' is unknown; known are cls"):
        vitral_export.export(Block(), name="m", repo=tmp_path, options=options)


@pytest.mark.parametrize("module", [ViTEmbedding(32, 8, 3, 16), PatchEmbedding2DPosition(32, 8, 3, 16)])
def test_a_state_dict_from_a_file_loads_unchanged(module: nn.Module, tmp_path: Path) -> None:
    name = "vit-embedding" if isinstance(module, ViTEmbedding) else "patch-embedding-2d-position"
    state = {key: value.clone() for key, value in module.state_dict().items()}
    for indices in (True, False):  # positions with and without their indices
        held = {key: value for key, value in state.items() if indices or value.is_floating_point()}
        save_file(held, tmp_path / "state.safetensors")
        options = Options(
            img_size=32, patch_size=8, embed_dim=16, weights=str(tmp_path / "state.safetensors")
        )
        loaded = load(name, options)
        assert loaded.source.weights_note == "weights of state.safetensors"
        for key, value in loaded.module.state_dict().items():
            assert torch.equal(value, state[key])


def test_halves_in_a_file_are_widened_exactly(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in PatchEmbedding(32, 8, 3, 16).state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    line = ["build", "patch-embedding", "--name", "m", "--repo", str(tmp_path / "models"), *SIZES]
    assert main([*line, "--embed-dim", "16", "--weights", str(tmp_path / "half.safetensors")]) == 0
    loaded = load(
        "patch-embedding", Options(**{**vars(SMALL), "weights": str(tmp_path / "half.safetensors")})
    )
    weight = loaded.module.state_dict()["projection.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["projection.weight"].float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("projection.bias"), r"has no projection\.bias"),
        (lambda s: s.update(other=torch.zeros(1)), "has, and the module has not, other"),
        (
            lambda s: s.update({"projection.bias": torch.zeros(8)}),
            r"projection\.bias is \(8,\), the module's",
        ),
        (
            lambda s: s.update({"projection.bias": torch.full((16,), torch.nan)}),
            "holds NaN or Inf in 16 of 16",
        ),
        (lambda s: s.update({"projection.bias": torch.zeros(16).double()}), "is torch.float64"),
    ],
)
def test_state_dicts_that_are_not_the_modules_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    state = dict(PatchEmbedding(32, 8, 3, 16).state_dict())
    change(state)
    save_file(state, tmp_path / "state.safetensors")
    with pytest.raises(InvalidArgumentError, match=message):
        load("patch-embedding", Options(**{**vars(SMALL), "weights": str(tmp_path / "state.safetensors")}))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("state.pt", b"\x80\x02", "pickled weights"),
        ("state.safetensors", b"\xff" * 64, "cannot be read as safetensors"),
        ("state.safetensors", b"", "cannot be read as safetensors"),
        ("missing.safetensors", None, "there is no file"),
    ],
)
def test_files_that_are_no_safetensors_are_refused_in_one_line(
    file: str, content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    line = ["build", "patch-embedding", "--name", "m", "--repo", str(tmp_path / "models"), *SIZES]
    assert main([*line, "--weights", str(tmp_path / file)]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "models").exists()
