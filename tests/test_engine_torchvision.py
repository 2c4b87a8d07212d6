"""Contract hf-torchvision against the torchvision backend's own pixels, and against PyTorch's kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
import torch
from PIL import Image

from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine import antialias
from vitral_engine.preprocess import Preprocessor
from vitral_export import preprocessor_config

FOLDER = Path(__file__).parent / "golden_torchvision"
GOLDEN = goldens.load("golden_torchvision")


def _id(case: dict[str, Any]) -> str:
    return case["file"] or f"DINOv3-{case['photograph']}-{case['config'].get('size')}"


def _read(case: dict[str, Any]) -> pb.Preprocessing:
    return preprocessor_config.read({"image_processor_type": "ViTImageProcessorFast"} | case["config"])


def test_the_goldens_say_what_made_them() -> None:
    assert set(GOLDEN["libraries"]) == {"numpy", "pillow", "torch", "torchvision", "transformers"}
    files = {case["file"] for case in GOLDEN["cases"] if case["file"]}
    assert files == {path.name for path in FOLDER.glob("*.png")}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=_id)
def test_pixels_and_rows_equal_the_torchvision_backend(case: dict[str, Any]) -> None:
    contract = Preprocessor(_read(case))
    pixels = contract.resize(goldens.source(case))
    if case["file"]:
        assert np.array_equal(pixels, np.asarray(Image.open(FOLDER / case["file"])))
    rows = contract.normalise(pixels)
    assert rows.dtype == np.float32
    assert goldens.sha256(rows) == case["float32_sha256"]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=_id)
def test_the_written_file_is_the_one_that_the_backend_loaded(case: dict[str, Any]) -> None:
    told = _read(case)
    written = json.loads(preprocessor_config.write(told))
    assert ({"image_processor_type": "ViTImageProcessorFast"} | case["config"]).items() <= written.items()
    assert preprocessor_config.read(written) == told


def test_the_contracts_differ_where_the_libraries_do() -> None:
    case = GOLDEN["cases"][0]
    image = goldens.source(case)
    ours, pillows = (
        Preprocessor(preprocessor_config.read(case["config"], contract=name)).resize(image).astype(int)
        for name in ("hf-torchvision", "hf-pil")
    )
    differing = np.abs(ours - pillows)
    assert 0 < np.mean(differing > 0) < 0.01
    assert differing.max() == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_any_size_equals_pytorchs_kernel(mode: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(12):
        # PyTorch's kernel without AVX2 is wrong where one output column is asked for.
        height, width, *target = (int(side) for side in random.integers(2, 400, 4))
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous(),
            size=target,
            mode=mode,
            antialias=True,
        )
        resample = pb.Resample.Value(f"RESAMPLE_{mode.upper()}")
        got = antialias.resize(pixels, height=target[0], width=target[1], resample=resample)
        assert np.array_equal(got, expected[0].permute(1, 2, 0).numpy()), (height, width, target)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (9000, 17), (224, 224), (224, 5), (5, 224)])
def test_any_shape_is_resized(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 77, np.uint8)
    size = tensor_pb2.ImageSize(height=224, width=224)
    contract = Preprocessor(
        pb.Preprocessing(
            contract="hf-torchvision",
            size=size,
            resample=pb.RESAMPLE_BICUBIC,
            rescale_factor=1 / 255,
            mean=[0.5] * 3,
            std=[0.5] * 3,
        )
    )
    got = contract.resize(pixels)
    assert got.shape == (224, 224, 3)
    assert np.all(got == 77)
