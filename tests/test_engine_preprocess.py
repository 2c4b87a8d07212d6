"""Contract hf-pil against ViTImageProcessorPil, bit for bit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from vitral.errors import ArtifactError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine import image
from vitral_engine.preprocess import Preprocessor
from vitral_export import preprocessor_config

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OWN = {"image_mean": [0.1, 0.9, 0.0], "image_std": [0.01, 3.0, 1.0], "rescale_factor": 1 / 127.5}


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


def _demand_equal(data: bytes, config: dict[str, Any]) -> NDArray[np.uint8]:
    """Demands the processor's pixels and rows of these bytes, and gives the pixels."""
    processor = ViTImageProcessorPil(**config)
    picture = load_image(Image.open(io.BytesIO(data)))
    plain = processor(picture, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    expected = processor(picture, return_tensors="np")["pixel_values"][0]
    ours = Preprocessor(preprocessor_config.read(config, contract="hf-pil"))
    pixels = ours.resize(image.open_rgb(data))
    assert plain.dtype == np.uint8
    assert np.array_equal(pixels.transpose(2, 0, 1), plain)
    got = ours.normalise(pixels)
    assert got.dtype == expected.dtype == np.float32
    assert np.array_equal(got, expected)
    return pixels


@pytest.mark.parametrize("path", photographs.ALL, ids=lambda path: path.name)
@pytest.mark.parametrize("statistics", [{}, IMAGENET], ids=["half", "imagenet"])
def test_equals_the_pillow_processor(path: Path, statistics: dict[str, Any]) -> None:
    _demand_equal(path.read_bytes(), statistics)


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", [(224, 224), (30, 700), (384, 128)])
def test_every_interpolation_and_shape(resample: int, size: tuple[int, int]) -> None:
    height, width = size
    config = {"size": {"height": height, "width": width}, "resample": resample, **OWN}
    pixels = _demand_equal(photographs.CHELSEA.read_bytes(), config)
    assert pixels.shape == (height, width, 3)


@pytest.mark.parametrize("path", [photographs.CHELSEA, photographs.ROCKET], ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ({"shortest_edge": 256}, (224, 224)),
        ({"shortest_edge": 57}, (41, 32)),
        ({"height": 64, "width": 65}, (33, 64)),
        ({"height": 40, "width": 61}, (45, 70)),
        ({"height": 40, "width": 61}, (31, 64)),
    ],
)
def test_crops_around_the_centre(path: Path, size: dict[str, int], crop: tuple[int, int]) -> None:
    sides = dict(zip(("height", "width"), crop, strict=True))
    config = {"size": size, "do_center_crop": True, "crop_size": sides, "resample": 3, **IMAGENET}
    pixels = _demand_equal(path.read_bytes(), config)
    assert pixels.shape == (*crop, 3)


def test_an_upright_picture_is_cropped_the_other_way() -> None:
    picture = Image.open(photographs.ROCKET).transpose(Image.Transpose.ROTATE_90)
    out = io.BytesIO()
    picture.save(out, "PNG")
    crop = {"height": 56, "width": 56}
    _demand_equal(out.getvalue(), {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": crop})


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_orientation_of_exif_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.open(photographs.COFFEE).resize((90, 60)).save(out, "JPEG", exif=exif)
    _demand_equal(out.getvalue(), {"size": {"height": 32, "width": 48}})


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_modes_become_rgb_first(mode: str) -> None:
    out = io.BytesIO()
    picture = Image.open(photographs.COFFEE).resize((90, 60)).convert(mode)
    picture.save(out, "TIFF" if mode == "CMYK" else "PNG")
    _demand_equal(out.getvalue(), {"size": {"height": 32, "width": 48}})


@pytest.mark.parametrize("contract", ["hf-pil", "hf-torchvision"])
def test_pixels_and_pictures_resize_alike(contract: str) -> None:
    ours = Preprocessor(_contract(contract=contract))
    data = photographs.CHELSEA.read_bytes()
    assert np.array_equal(ours.resize(image.decode(data)), ours.resize(image.open_rgb(data)))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 3), (224, 224, 3), (3, 2, 3)])
def test_any_size_is_resized(shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, 77, np.uint8)
    assert np.all(Preprocessor(_contract()).resize(pixels) == 77)


def test_a_long_picture_does_not_become_a_huge_one() -> None:
    crop = tensor_pb2.ImageSize(height=224, width=224)
    ours = Preprocessor(_contract(size=None, shortest_edge=256, crop_size=crop))
    with pytest.raises(ValueError, match="1 x 9000, its shortest edge at 256, becomes 256 x 2304000, over"):
        ours.resize(np.zeros((1, 9000, 3), np.uint8))
    assert ours.resize(np.zeros((5, 900, 3), np.uint8)).shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contract": "own"}, "unknown preprocessing contract 'own'; known are hf-pil, hf-torchvision"),
        ({"mean": [0.5]}, "three means"),
        ({"std": [0.5, 0.0, 0.5]}, "non-zero"),
        ({"shortest_edge": 256}, "a size or a shortest edge, and not both"),
        ({"shortest_edge": 256, "size": None}, "256 gives rows of many sizes: a crop size is needed"),
        ({"size": tensor_pb2.ImageSize(height=8)}, "a size of 8 x 0"),
        ({"resample": pb.RESAMPLE_UNSPECIFIED}, "no interpolation"),
        ({"contract": "hf-torchvision", "resample": pb.RESAMPLE_BOX}, "hf-torchvision has no box"),
        ({"high_depth": "shift"}, "unknown rule 'shift' for 16-bit pictures"),
    ],
)
def test_contracts_it_cannot_hold_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Preprocessor(_contract(**changes))
