"""Dynamic height and width: what is exported runs at sizes that nobody tried, and what cannot is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor

import vitral_export
from vitral.errors import UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral_engine import goldens, triton
from vitral_engine.artifact import open_artifact
from vitral_export.cli import main
from vitral_export.dynamic_size import sizes
from vitral_export.modules import ManualPatchEmbedding, PatchEmbedding
from vitral_export.sources import Options, load

SMALL = Options(img_size=32, patch_size=8, embed_dim=16)
NEVER_RUN = [(24, 40), (40, 24), (56, 8), (64, 48), (16, 16)]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both patch embeddings of dynamic size: image 32, patch 8, width 16, seed 0."""
    repo = tmp_path_factory.mktemp("sized") / "models"
    sizes = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")
    for name in ("patch-embedding", "manual-patch-embedding"):
        assert main(["build", name, "--name", name, "--repo", str(repo), "--dynamic-size", *sizes]) == 0
    return repo


def run(folder: Path, rows: Tensor) -> list[np.ndarray]:
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return [np.asarray(item) for item in session.run(None, {"pixel_values": rows.numpy()})]


@pytest.mark.parametrize(
    ("name", "module"),
    [("patch-embedding", PatchEmbedding), ("manual-patch-embedding", ManualPatchEmbedding)],
)
def test_a_patch_embedding_takes_images_of_any_size(
    repo: Path, name: str, module: type[PatchEmbedding | ManualPatchEmbedding]
) -> None:
    twin = load(name, SMALL).module
    assert isinstance(twin, module)
    for height, width in NEVER_RUN:
        rows = torch.randn(3, 3, height, width)
        (found,) = run(repo / name / "1", rows)
        with torch.inference_mode():
            np.testing.assert_allclose(found, twin.project(rows).numpy(), rtol=0, atol=1e-5)
        assert found.shape == (3, height * width // 64, 16)


def test_the_manifest_says_which_sizes_are_proven(repo: Path) -> None:
    spec = open_artifact(repo / "patch-embedding").spec
    own = spec.architecture
    said = [(size.height, size.width) for size in (own.image_size, own.min_size, own.max_size)]
    assert said == [(32, 32), (8, 8), (64, 64)]
    proven = [(size.height, size.width) for size in spec.proof.sizes]
    assert proven == [(32, 32), (16, 48), (48, 16), (8, 8), (8, 64), (64, 8), (64, 64)]
    assert [[axis.size for axis in graph.input.axes] for graph in spec.graphs] == [[0, 0, 0, 3], [0, 3, 0, 0]]
    assert [axis.size for axis in spec.outputs[0].axes] == [0, 0, 16]
    dims = [list(item.dims) for item in triton.fresh(spec).input]
    assert dims == [[3, -1, -1]]
    assert triton.limits(repo / "patch-embedding", spec).max_batch_size == triton.MAX_BATCH_SIZE


def test_goldens_of_two_more_sizes_travel(repo: Path) -> None:
    artifact = open_artifact(repo / "patch-embedding")
    known = goldens.load(artifact.folder, artifact.spec)
    assert list(known.sized) == [(16, 48), (48, 16)]
    assert known.sized[48, 16].inputs["model_uint8.onnx"].shape == (1, 48, 16, 3)
    assert known.sized[48, 16].outputs["model.onnx", "patch_embeddings"].shape == (1, 12, 16)


def test_the_proof_can_be_repeated_and_replayed(repo: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")
    model = str(repo / "patch-embedding")
    assert main(["verify", model, "--source", "patch-embedding", *sizes]) == 0
    assert "agrees with patch-embedding in PyTorch: structure equal" in capfd.readouterr().out
    assert main(["verify", model, "--source", "patch-embedding", *sizes, "--seed", "1"]) == 1
    assert "vitral-export: structure: model_uint8.onnx at 16 x 48: " in capfd.readouterr().err


ONE_SIZE = {
    "vit-embedding": "ViTEmbedding is static: pixel_values is 16 x 48, the module takes images of 32 x 32",
    "patch-embedding-2d-position": "PatchEmbedding2DPosition is static: pixel_values is 16 x 48, the module",
    "position-embedding-2d": "ViT2DPositionEmbedding is static: it does not take images",
}


@pytest.mark.parametrize("source", ONE_SIZE)
def test_a_module_of_one_size_is_refused_by_name(refusal: Callable[..., str], source: str) -> None:
    sizes = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")
    assert refusal(source, *sizes, "--dynamic-size").startswith(f"vitral-export: {ONE_SIZE[source]}")


class Sums(torch.nn.Module):
    """Patches of any size, and one vector that is a sum over as many pixels as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.img_size = 32
        self.projection = torch.nn.Conv2d(3, 16, 8, 8)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        grid = self.projection(rows)
        return {"tokens": grid.flatten(2).transpose(1, 2), "mean": grid.mean((2, 3)), "grid": grid}


def test_a_module_of_ones_own_is_tried(tmp_path: Path) -> None:
    module = Sums()
    done = vitral_export.export(module, name="sums", repo=tmp_path, dynamic_size=True)
    extents = {item.name: [axis.size for axis in item.axes] for item in done.spec.outputs}
    assert extents == {"tokens": [0, 0, 16], "mean": [0, 16], "grid": [0, 16, 0, 0]}
    rows = torch.randn(2, 3, 24, 56)
    with torch.inference_mode():
        for found, wanted in zip(run(done.path, rows), module(rows).values(), strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5)


class Pooled(Sums):
    """As many tokens whatever the size."""

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"tokens": torch.nn.functional.adaptive_avg_pool2d(self.projection(rows), 4).flatten(2).mT}


def test_tokens_that_do_not_follow_the_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedError, match=r"Pooled is static: tokens is \(16,\) at 16 x 48, which does not"
    ):
        vitral_export.export(Pooled(), name="m", repo=tmp_path / "models", dynamic_size=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 16, 24, 32, 37, 48, 64])
@pytest.mark.parametrize("wider", [0, 1, 5])
def test_the_sizes_of_a_proof_tell_rows_from_columns(side: int, wider: int) -> None:
    own = pb.Architecture()
    own.patch_size.height, own.patch_size.width = 14, 7
    own.grid.height, own.grid.width = side, side + wider
    known = sizes(own)
    (high, wide), (tall, narrow) = known.traced, known.twin
    assert (high // 14, wide // 7) == (narrow // 7, tall // 14)
    assert high // 14 != wide // 7
    assert high * wide // 98 != side * (side + wider)
    assert len(known.proven) >= 6
    largest = known.corners[-1]
    assert all(size[0] <= largest[0] and size[1] <= largest[1] for size in known.proven)
