"""Every kind of model, from a JPEG to the served tensors, against PyTorch in float64 from the pixels on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import pytest
import torch
import vit_checkpoints as vits
from serving import Running, running
from torch import Tensor, nn
from transformers import ViTModel
from transformers.image_utils import load_image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from vitral_client import Client, Prepared
from vitral_engine.measure import budget, errors
from vitral_export.cli import main
from vitral_export.modules import (
    ManualPatchEmbedding,
    PatchEmbedding,
    PatchEmbedding2DPosition,
    ViT2DPositionEmbedding,
    ViTEmbedding,
)

Outputs = Mapping[str, Tensor]
SIZES = (32, 8, 3, 16)
PRESETS: Mapping[str, Callable[[], Any]] = {
    "patch-embedding": lambda: PatchEmbedding(*SIZES),
    "manual-patch-embedding": lambda: ManualPatchEmbedding(*SIZES),
    "vit-embedding": lambda: ViTEmbedding(*SIZES),
    "patch-embedding-2d-position": lambda: PatchEmbedding2DPosition(*SIZES),
}
CHECKPOINTS: Mapping[str, Mapping[str, Any]] = {"vit-odd": vits.ODD, "vit-other": vits.OTHER}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, config in CHECKPOINTS.items():
        vits.save(folder / name, vits.model(config))
    return folder


@pytest.fixture(scope="module")
def client(
    preset_repo: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """One server with all of them."""
    folder = tmp_path_factory.mktemp("served")
    repo = shutil.copytree(preset_repo, folder / "models")
    for name in CHECKPOINTS:
        assert main(["build", f"hf:{checkpoints / name}", "--name", name, "--repo", str(repo)]) == 0
    with running(repo, log=folder / "log") as server:
        started: Running = server
        with Client(started.address) as opened:
            yield opened


def vit_outputs(module: nn.Module, pixels: Tensor) -> Outputs:
    """What a ViTModel gives, layer by layer, each layer called by itself."""
    model: Any = module
    found = model(pixel_values=pixels)
    return {
        "last_hidden_state": found.last_hidden_state,
        "pooler_output": found.pooler_output,
        "embeddings": model.embeddings(pixels),
        "patch_embeddings": model.embeddings.patch_embeddings(pixels),
    }


def tutorial_outputs(module: nn.Module, pixels: Tensor) -> Outputs:
    """What a module of the tutorial gives, by the names that contracts have for it."""
    if isinstance(module, ViTEmbedding | PatchEmbedding2DPosition):
        return {"embeddings": module(pixels), "patch_embeddings": module.patch_embedding(pixels)}
    return {"patch_embeddings": module(pixels)}


def source(name: str, checkpoints: Path) -> tuple[nn.Module, Callable[[nn.Module, Tensor], Outputs], Any]:
    """The module behind a served model, made without the exporter, and its processor."""
    if name in CHECKPOINTS:
        folder = checkpoints / name
        module = ViTModel.from_pretrained(folder).eval()
        return module, vit_outputs, ViTImageProcessorPil.from_pretrained(folder)
    torch.manual_seed(0)
    size = {"height": 32, "width": 32}
    return PRESETS[name]().eval(), tutorial_outputs, ViTImageProcessorPil(size=size)


@pytest.mark.parametrize("name", [*PRESETS, *CHECKPOINTS])
def test_a_jpeg_comes_back_as_torch_has_it_in_every_output(
    client: Client, checkpoints: Path, name: str
) -> None:
    module, outputs_of, processor = source(name, checkpoints)
    pictures = [load_image(str(path)) for path in photographs.JPEGS]
    levels = processor(pictures, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    mean, std = (
        torch.tensor(item).double()[:, None, None] for item in (processor.image_mean, processor.image_std)
    )
    wide = (levels.double() / 255 - mean) / std
    plain = processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        single = {key: value.numpy() for key, value in outputs_of(module, plain).items()}
        double = {key: value.numpy() for key, value in outputs_of(module.double(), wide).items()}
    assert {output.name for output in client.model(name).spec.outputs} == set(double)
    for index, path in enumerate(photographs.JPEGS):
        found = client.embed(path, model=name, outputs=sorted(double)).outputs
        assert set(found) == set(double)
        for key, truth in double.items():
            allowed = budget(errors(single[key], truth))
            gap = errors(found[key][None], truth[index : index + 1])
            assert allowed.holds(gap), f"{path.name}, {key}: {gap} is over {allowed}"


def test_positions_are_added_to_tokens_as_torch_adds_them(client: Client) -> None:
    torch.manual_seed(0)
    module = ViT2DPositionEmbedding(32, 8, 16)
    tokens = np.random.default_rng(1).standard_normal((5, 16, 16)).astype(np.float32)
    with torch.no_grad():
        single = module(torch.from_numpy(tokens)).numpy()
        truth = module.double()(torch.from_numpy(tokens).double()).numpy()
    results = client.embed([Prepared(row) for row in tokens], model="position-embedding-2d")
    found = np.stack([result.outputs["embeddings"] for result in results])
    assert budget(errors(single, truth)).holds(errors(found, truth))
    assert np.array_equal(found, single)  # one addition, rounded once, wherever it is done
