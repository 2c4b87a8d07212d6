"""Every image processor that is known, against transformers' own class, on real photographs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import photographs
import PIL
import pytest
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_utils import load_image

from vitral.errors import InvalidArgumentError
from vitral_engine.preprocess import Preprocessor
from vitral_export import preprocessor_config
from vitral_export.image_processors import IMAGE_PROCESSORS

MODULES = {"ViT": "vit", "DeiT": "deit", "Beit": "beit", "Bit": "bit", "CLIP": "clip", "Siglip": "siglip"}
PILLOW = goldens.load("golden_pillow")
NAMES = [f"{short}ImageProcessor" for short in MODULES]

# As people find them: dinov2-base, clip-vit-base-patch32, siglip-base, deit-base-distilled, beit-base.
DINOV2 = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
}
CLIP = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}
SIGLIP = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "SiglipProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224},
}
DEIT = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "DeiTFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 256,
}
BEIT = {
    "crop_size": 224,
    "do_center_crop": False,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "BeitFeatureExtractor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "reduce_labels": True,
    "resample": 2,
    "size": 224,
}
FOUND = {"dinov2": DINOV2, "clip": CLIP, "siglip": SIGLIP, "deit": DEIT, "beit": BEIT}


def _of_pillow(name: str) -> Any:
    short = name.removesuffix("ImageProcessor")
    where = MODULES[short]
    module = importlib.import_module(f"transformers.models.{where}.image_processing_pil_{where}")
    return getattr(module, f"{name}Pil")


def _demand_equal(config: dict[str, Any], processor: Any, picture: Image.Image) -> None:
    """Demands the processor's own bytes, and its own rows."""
    told = preprocessor_config.read(config)
    assert told.contract == "hf-pil"
    ours = Preprocessor(told)
    pixels = ours.resize(picture)
    plain = processor(picture, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    assert plain.dtype == np.uint8
    assert np.array_equal(pixels.transpose(2, 0, 1), plain)
    expected = processor(picture, return_tensors="np")["pixel_values"][0]
    got = ours.normalise(pixels)
    assert got.dtype == expected.dtype == np.float32
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("path", photographs.ALL, ids=lambda path: path.name)
@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_those_of_the_class(name: str, path: Path) -> None:
    _demand_equal({"image_processor_type": name}, _of_pillow(name)(), load_image(str(path)))


@pytest.mark.parametrize("path", [photographs.COFFEE, photographs.ROCKET], ids=lambda path: path.name)
@pytest.mark.parametrize("found", FOUND)
def test_files_that_people_have_mean_what_transformers_makes_of_them(
    found: str, path: Path, tmp_path: Path
) -> None:
    (tmp_path / preprocessor_config.FILE).write_text(json.dumps(FOUND[found]))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    _demand_equal(FOUND[found], processor, load_image(str(path)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "own",
    [
        {
            "size": {"height": 40, "width": 61},
            "do_center_crop": True,
            "crop_size": {"height": 31, "width": 64},
        },
        {"size": {"shortest_edge": 57}, "do_center_crop": True, "crop_size": 41, "resample": 1},
        {"size": [32, 48], "do_center_crop": False, "do_normalize": False},
    ],
    ids=str,
)
def test_what_is_written_loads_as_the_same_class_again(
    name: str, own: dict[str, Any], tmp_path: Path
) -> None:
    told = preprocessor_config.read({"image_processor_type": f"{name}Fast", **own}, contract="hf-pil")
    assert name in told.bound
    text = preprocessor_config.write(told)
    assert preprocessor_config.read(json.loads(text)) == told
    (tmp_path / preprocessor_config.FILE).write_text(text)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert type(processor) is _of_pillow(name)
    _demand_equal(json.loads(text), processor, load_image(str(photographs.CHELSEA)))


@pytest.mark.parametrize("name", IMAGE_PROCESSORS)
def test_the_class_and_its_backend_decide_the_contract(name: str) -> None:
    only = ["hf-dinov3"] if name.startswith("DINOv3") else None
    for ending, contract in (("", "hf-pil"), ("Pil", "hf-pil"), ("Fast", "hf-torchvision")):
        told = preprocessor_config.read({"image_processor_type": name + ending})
        assert [told.contract] == (only or [contract])
        assert name in told.bound
        assert preprocessor_config.read(json.loads(preprocessor_config.write(told))) == told


def test_a_file_that_names_no_class_is_read_as_it_is_told() -> None:
    assert preprocessor_config.read({}, unnamed="CLIPImageProcessor").shortest_edge == 224
    assert "ViTImageProcessorPil" in preprocessor_config.read({}).bound


def test_another_contract_keeps_the_class() -> None:
    told = preprocessor_config.read(DINOV2, contract="hf-torchvision")
    written = json.loads(preprocessor_config.write(told))
    assert written["image_processor_type"] == "BitImageProcessorFast"
    assert written.items() >= {key: DINOV2[key] for key in ("size", "crop_size", "resample")}.items()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**CLIP, "do_flip_channel_order": True}, "do_flip_channel_order cannot be honoured"),
        ({**CLIP, "use_square_size": True}, "use_square_size cannot be honoured"),
        ({**CLIP, "do_reduce_labels": True}, "do_reduce_labels cannot be honoured"),
        ({**CLIP, "do_center_crop": False}, "a crop size is needed"),
        ({**CLIP, "do_convert_rgb": False}, "do_convert_rgb is false"),
        ({**DINOV2, "size": {"longest_edge": 256}}, "size by longest_edge cannot"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "'Siglip2ImageProcessor' is no image processor"),
        ({"image_processor_type": 3}, "'3' is no image processor"),
        ({"image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 1}, "hf-dinov3 has no lanczos"),
        ({"image_processor_type": "DINOv3ViTImageProcessor", "do_rescale": False}, "do_rescale is false"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        preprocessor_config.read(config)


@pytest.mark.parametrize(
    "case", PILLOW.get(PIL.__version__, []), ids=lambda case: "-".join(case.values())[:40]
)
def test_pixels_are_those_known_of_this_pillow(case: dict[str, str]) -> None:
    ours = Preprocessor(preprocessor_config.read({"image_processor_type": case["processor"]}))
    pixels = ours.resize(load_image(str(photographs.ROCKET.with_name(case["photograph"]))))
    assert goldens.sha256(pixels) == case["uint8_sha256"]


def test_this_pillow_is_known() -> None:
    known = ", ".join(PILLOW)
    here = PIL.__version__
    assert here in PILLOW, (
        f"no golden pixels of Pillow {here} are known, of {known} are: `make golden-pillow`"
    )
