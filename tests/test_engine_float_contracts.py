"""Contracts that resize in float32: TensorFlow's own pixels, PyTorch's own kernel, and a plain float64."""

from __future__ import annotations

from typing import Any

import goldens
import numpy as np
import photographs
import pytest
import torch
from numpy.typing import NDArray

from vitral.errors import ArtifactError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine import float_resize, image
from vitral_engine.preprocess import Preprocessor
from vitral_export import contract as contracts

GOLDEN = goldens.load("golden_tensorflow")
LEVELS = np.arange(256, dtype=np.float32) * np.float32(1 / 255)


def _noise(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _dinov3(**changes: Any) -> pb.Preprocessing:
    values: dict[str, Any] = {
        "contract": "hf-dinov3",
        "size": tensor_pb2.ImageSize(height=32, width=48),
        "resample": pb.RESAMPLE_BILINEAR,
        "rescale_factor": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    return pb.Preprocessing(**(values | changes))


def test_the_goldens_say_what_made_them() -> None:
    assert set(GOLDEN["libraries"]) == {"numpy", "pillow", "tensorflow-cpu"}
    assert len(GOLDEN["cases"]) == 24


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['photograph']} {case['size']}")
def test_google_tf_equals_tensorflow(case: dict[str, Any]) -> None:
    ours = Preprocessor(contracts.google_tf(*case["size"]))
    pixels = ours.resize(goldens.source(case))
    assert pixels.dtype == np.float32
    assert goldens.sha256(pixels) == case["resized_sha256"]
    assert goldens.sha256(ours.normalise(pixels)) == case["float32_sha256"]


@pytest.mark.parametrize("shape", [(1, 1), (480, 640), (37, 900), (5, 224), (224, 224)])
def test_google_tf_is_near_a_plain_bilinear_in_float64(shape: tuple[int, int]) -> None:
    pixels = _noise(1, *shape)

    def axis(inputs: int, target: int) -> NDArray[np.float64]:
        at = (np.arange(target) + 0.5) * inputs / target - 0.5
        apart = np.abs(np.clip(at, 0, inputs - 1)[:, None] - np.arange(inputs))
        return np.maximum(0.0, 1.0 - apart)

    expected = np.einsum(
        "hH,HWc,wW->hwc", axis(shape[0], 224), pixels / 1.0, axis(shape[1], 160), optimize=True
    )
    got = Preprocessor(contracts.google_tf(224, 160)).resize(pixels)
    # Positions are float32, so that far from the first pixel their last bits are a share of a level.
    assert np.abs(got - expected).max() < 0.02
    assert not np.array_equal(got, np.rint(got)) or shape in ((1, 1), (224, 224))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_hf_dinov3_resizes_as_pytorchs_kernel(mode: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    resample = pb.Resample.Value(f"RESAMPLE_{mode.upper()}")
    for _ in range(8):
        height, width, *target = (int(side) for side in random.integers(2, 300, 4))
        pixels = _noise(seed, height, width)
        scaled = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous() * (1 / 255)
        expected = torch.nn.functional.interpolate(scaled, size=target, mode=mode, antialias=True)
        got = float_resize.antialiased(pixels, LEVELS, height=target[0], width=target[1], resample=resample)
        if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
            assert np.array_equal(got, expected[0].permute(1, 2, 0).numpy()), (height, width, target)
        else:
            assert np.abs(got - expected[0].permute(1, 2, 0).numpy()).max() < 2e-6


def test_hf_dinov3_rescales_resizes_and_then_normalises() -> None:
    rgb = image.decode(photographs.COFFEE.read_bytes()).copy()
    ours = Preprocessor(_dinov3())
    pixels = ours.resize(rgb)
    scaled = torch.from_numpy(rgb).permute(2, 0, 1)[None].contiguous() * (1 / 255)
    resized = torch.nn.functional.interpolate(scaled, size=(32, 48), mode="bilinear", antialias=True)[0]
    mean, std = (torch.tensor(list(item))[:, None, None] for item in (ours.spec.mean, ours.spec.std))
    expected = ((resized - mean) / std).numpy()
    got = ours.normalise(pixels)
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() < 2e-5
    # Bytes in between would not do.
    levels = ours.as_resized(np.rint(pixels * 255).astype(np.uint8))
    assert np.abs(ours.normalise(levels) - expected).max() > 1e-3


@pytest.mark.parametrize("told", [contracts.google_tf(32, 48), _dinov3()], ids=lambda told: told.contract)
def test_bytes_of_their_own_size_are_only_made_floats(told: pb.Preprocessing) -> None:
    ours, pixels = Preprocessor(told), _noise(3, 32, 48)
    assert not ours.in_bytes
    assert not ours.keeps(32, 48)
    resized = ours.resize(pixels)
    assert np.array_equal(resized, ours.as_resized(pixels))
    assert np.array_equal(ours.shown(resized), pixels)


def test_what_is_shown_is_the_nearest_byte() -> None:
    data = photographs.CHELSEA.read_bytes()
    ours = Preprocessor(_dinov3())
    bytes_of = Preprocessor(_dinov3(contract="hf-torchvision"))
    apart = ours.shown(ours.resize(image.decode(data))).astype(int) - bytes_of.resize(image.decode(data))
    assert np.abs(apart).max() <= 1
    assert np.mean(apart != 0) < 0.25


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (_dinov3(resample=pb.RESAMPLE_LANCZOS), "hf-dinov3 has no lanczos interpolation"),
        (_dinov3(contract="google-tf"), "google-tf has the rescale factor 1, not 0.00392157"),
        (
            _dinov3(contract="google-tf", rescale_factor=1, resample=pb.RESAMPLE_BICUBIC),
            "google-tf has no bicubic",
        ),
        (
            _dinov3(
                contract="google-tf", rescale_factor=1, crop_size=tensor_pb2.ImageSize(height=8, width=8)
            ),
            "google-tf crops nothing",
        ),
        (
            _dinov3(contract="timm", rescale_factor=1 / 127.5),
            "timm has the rescale factor 0.00392157, not 0.00784314",
        ),
    ],
    ids=str,
)
def test_numbers_that_are_not_the_contracts_are_refused(told: pb.Preprocessing, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Preprocessor(told)
