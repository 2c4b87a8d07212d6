"""Contract hf-pil against ViTImageProcessorPil, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import photographs
import pytest
from transformers.image_utils import load_image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from vitral.errors import ArtifactError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine import image
from vitral_engine.preprocess import Preprocessor


def _contract(**changes: object) -> pb.Preprocessing:
    values: dict[str, object] = {
        "contract": "hf-pil",
        "size": tensor_pb2.ImageSize(height=224, width=224),
        "resample": pb.RESAMPLE_BILINEAR,
        "rescale_factor": 1 / 255,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    return pb.Preprocessing(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", photographs.ALL, ids=lambda path: path.name)
@pytest.mark.parametrize("statistics", ["half", "imagenet"])
def test_equals_the_pillow_processor(path: Path, statistics: str) -> None:
    mean, std = ([0.5] * 3, [0.5] * 3)
    if statistics == "imagenet":
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor = ViTImageProcessorPil(image_mean=mean, image_std=std)
    expected = processor(load_image(str(path)), return_tensors="np")["pixel_values"][0]
    ours = Preprocessor(_contract(mean=mean, std=std))
    got = ours.normalise(ours.resize(image.open_rgb(path.read_bytes())))
    assert got.dtype == np.float32
    assert np.array_equal(got, expected)


def test_pixels_and_pictures_resize_alike() -> None:
    ours = Preprocessor(_contract())
    data = photographs.CHELSEA.read_bytes()
    assert np.array_equal(ours.resize(image.decode(data)), ours.resize(image.open_rgb(data)))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 3), (224, 224, 3), (3, 2, 3)])
def test_any_size_is_resized(shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, 77, np.uint8)
    assert np.all(Preprocessor(_contract()).resize(pixels) == 77)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contract": "own"}, "unknown preprocessing contract 'own'"),
        ({"mean": [0.5]}, "three means"),
        ({"std": [0.5, 0.0, 0.5]}, "non-zero"),
        ({"shortest_edge": 256}, "crops are not supported"),
        ({"resample": pb.RESAMPLE_UNSPECIFIED}, "no interpolation"),
    ],
)
def test_contracts_it_cannot_hold_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Preprocessor(_contract(**changes))
