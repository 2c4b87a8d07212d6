"""preprocessor_config.json: what transformers means by it, what is refused, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import pytest
from transformers import AutoImageProcessor
from transformers.image_utils import load_image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import vitral_export
from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine.preprocess import Preprocessor
from vitral_export import preprocessor_config
from vitral_export.modules import PatchEmbedding
from vitral_export.preprocessing import choose, default, hugging_face

SMALL = {"size": {"height": 32, "width": 32}}
CROPPED = {"size": {"shortest_edge": 41}, "do_center_crop": True, "crop_size": 32}

# As transformers 4 saved its fast processor: every key there was, most of them null.
SAVED_FAST = {
    "crop_size": None,
    "data_format": "channels_first",
    "default_to_square": True,
    "device": None,
    "disable_grouping": None,
    "do_center_crop": None,
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_pad": None,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "ViTImageProcessorFast",
    "image_seq_length": None,
    "image_std": [0.229, 0.224, 0.225],
    "input_data_format": None,
    "pad_size": None,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "return_tensors": None,
    "size": {"height": 384, "width": 384},
}


def test_an_empty_file_means_the_defaults_of_the_class() -> None:
    told = preprocessor_config.read({}, contract="hf-pil")
    assert told == default(224)
    assert (told.size.height, told.resample) == (224, pb.RESAMPLE_BILINEAR)
    assert (list(told.mean), list(told.std), told.rescale_factor) == ([0.5] * 3, [0.5] * 3, 1 / 255)


def test_a_saved_fast_processor_is_the_torchvision_contract() -> None:
    told = preprocessor_config.read(SAVED_FAST)
    assert (told.contract, told.size.width, told.resample) == ("hf-torchvision", 384, pb.RESAMPLE_BICUBIC)
    assert "AVX2" in told.bound
    assert preprocessor_config.read(SAVED_FAST, contract="hf-pil").contract == "hf-pil"


@pytest.mark.parametrize(
    ("kind", "contract"),
    [
        ({"image_processor_type": "ViTImageProcessorPil"}, "hf-pil"),
        ({"image_processor_type": "ViTImageProcessor"}, "hf-pil"),
        ({"feature_extractor_type": "ViTFeatureExtractor"}, "hf-pil"),
        ({}, "hf-pil"),
    ],
)
def test_the_class_decides_where_no_contract_is_named(kind: dict[str, str], contract: str) -> None:
    assert preprocessor_config.read(kind).contract == contract


@pytest.mark.parametrize(
    "config",
    [
        {"size": 32},
        {"size": [32, 48]},
        {"size": 32, "image_mean": 0.25, "image_std": 0.125},
        {"size": 32, "do_normalize": False},
        {"size": 32, "do_rescale": False},
        {"size": 32, "do_rescale": False, "do_normalize": False},
        {"size": 32, "rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": [1, 2, 1]},
        {"size": 41, "default_to_square": False, "do_center_crop": True, "crop_size": 32},
        {"size": 32, "do_pad": False, "crop_size": 7, "do_center_crop": None},
        {"size": 32, "do_normalize": None, "image_mean": None},
        {"size": 32, "do_rescale": None, "rescale_factor": None, "do_convert_rgb": None},
        {"size": 32, "do_convert_rgb": True, "do_reduce_labels": False},
    ],
    ids=str,
)
def test_what_is_read_equals_the_pillow_processor(config: dict[str, Any], tmp_path: Path) -> None:
    picture = load_image(str(photographs.COFFEE))
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(config))
    expected = ViTImageProcessorPil.from_pretrained(tmp_path)(picture, return_tensors="np")["pixel_values"][0]
    for source in (config, file, tmp_path):
        ours = Preprocessor(preprocessor_config.read(source, contract="hf-pil"))
        assert np.array_equal(ours.normalise(ours.resize(picture)), expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_resize": False}, "do_resize is false: .* as `prepared` rows"),
        ({"do_resize": None}, "do_resize is false"),
        ({"do_convert_rgb": False}, "do_convert_rgb is false"),
        ({"do_pad": True}, "do_pad is true"),
        ({"do_resize": 1}, "do_resize is true or false, not 1"),
        ({"do_center_crop": True}, "crop_size None is no height and width"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 8}}, "crop_size needs a height"),
        ({"size": {"shortest_edge": 256}}, "a crop size is needed"),
        ({"size": {"longest_edge": 256}}, "size by longest_edge cannot be honoured"),
        ({"size": {"max_height": 8, "max_width": 8}}, "size by max_height, max_width cannot"),
        ({"size": 0}, "size .* is no height and width"),
        ({"size": {"height": 8, "width": 2.5}}, "size .* is no height and width"),
        ({"size": "224"}, "size '224' is no height and width"),
        ({"resample": "bicubic"}, "resample is a number from 0 to 5, not 'bicubic'"),
        ({"resample": None}, "resample is a number from 0 to 5, not None"),
        ({"resample": 6}, "resample is a number from 0 to 5, not 6"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean is a number or three, not \[0.5, 0.5\]"),
        ({"image_mean": None}, "image_mean is a number or three, not None"),
        ({"image_std": "0.5"}, "image_std is a number or three, not '0.5'"),
        ({"image_std": [0.5, 0, 0.5]}, "positive deviations"),
        ({"image_mean": float("nan")}, "positive rescale factor"),
        ({"rescale_factor": 0}, "positive rescale factor"),
        ({"rescale_factor": True}, "rescale_factor is a number, not True"),
        ({"crop_pct": 0.9, "size_divisor": 32}, "crop_pct, size_divisor cannot be honoured"),
        ({"auto_map": {"AutoImageProcessor": "own.Own"}}, "auto_map cannot be honoured"),
        (
            {"image_processor_type": "ConvNextImageProcessor"},
            "'ConvNextImageProcessor' is no image processor of a",
        ),
        ({"image_processor_type": "ViTImageProcessorFast", "resample": 4}, "hf-torchvision has no box"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        preprocessor_config.read(config)


def test_an_unknown_contract_is_refused() -> None:
    with pytest.raises(
        InvalidArgumentError, match="unknown preprocessing contract 'hf-jax'; known are hf-pil"
    ):
        preprocessor_config.read({}, contract="hf-jax")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"\xff{", "is not JSON"), (b"[1]", "holds no JSON object")],
)
def test_files_that_cannot_be_read_are_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=f"own.json {message}"):
        preprocessor_config.read(file)


@pytest.mark.parametrize("contract", ["hf-pil", "hf-torchvision"])
@pytest.mark.parametrize("config", [{}, SMALL, CROPPED, {**SMALL, "resample": 1, "image_std": [1, 2, 3]}])
def test_what_is_written_is_read_again(config: dict[str, Any], contract: str) -> None:
    told = preprocessor_config.read(config, contract=contract)
    assert preprocessor_config.read(json.loads(hugging_face(told))) == told


@pytest.mark.parametrize("config", [SMALL, CROPPED, {"size": 48, "resample": 3, "image_mean": 0.1}])
def test_transformers_loads_what_is_written(config: dict[str, Any], tmp_path: Path) -> None:
    told = preprocessor_config.read(config, contract="hf-pil")
    (tmp_path / preprocessor_config.FILE).write_text(hugging_face(told))
    # `backend` where both are installed: the automatic class prefers torchvision, whatever the file names.
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert type(processor) is ViTImageProcessorPil
    picture = load_image(str(photographs.CHELSEA))
    expected = processor(picture, return_tensors="np")["pixel_values"][0]
    ours = Preprocessor(told)
    assert np.array_equal(ours.normalise(ours.resize(picture)), expected)


def test_choices_of_contract_and_file(tmp_path: Path) -> None:
    own, size = default(32), tensor_pb2.ImageSize(height=32, width=32)
    file = tmp_path / "own.json"
    file.write_text(json.dumps({**CROPPED, "resample": 3}))

    def chosen(choice: Any, **more: str) -> pb.Preprocessing:
        found = choose(choice, own=own, size=size, **more)
        assert found is not None
        return found

    assert chosen("auto") == chosen("hf-pil") == chosen(own) == own
    torchvision = chosen("hf-torchvision")
    assert (torchvision.contract, torchvision.size) == ("hf-torchvision", size)
    assert torchvision.bound != own.bound
    assert chosen(str(file)) == chosen(file) == preprocessor_config.read(file, contract="hf-pil")
    assert chosen(f"hf-torchvision:{file}").contract == "hf-torchvision"
    assert chosen("auto", high_depth="scale").high_depth == "divide-by-257"
    assert not own.high_depth
    with pytest.raises(InvalidArgumentError, match="3 channels, which the module does not take"):
        choose("hf-torchvision", own=None, size=size)


@pytest.mark.parametrize("contract", ["hf-pil", "hf-torchvision"])
def test_a_cropping_contract_is_exported_and_served_in_process(contract: str, tmp_path: Path) -> None:
    import vitral_engine

    file = tmp_path / "own.json"
    file.write_text(json.dumps({**CROPPED, "image_mean": 0.25}))
    module = PatchEmbedding(32, 8, 3, 16)
    done = vitral_export.export(
        module, name="m", repo=tmp_path / "models", preprocessing=f"{contract}:{file}", high_depth="scale"
    )
    told = done.spec.preprocessing
    assert (told.contract, told.shortest_edge, told.crop_size.width) == (contract, 41, 32)
    data = photographs.COFFEE.read_bytes()
    model = vitral_engine.open(done.path)
    assert model.replayed.pixels_equal
    (served,) = model.embed([data])
    ours = Preprocessor(told)
    row = ours.normalise(ours.resize(load_image(str(photographs.COFFEE))))
    (prepared,) = model.session_for(["patch_embeddings"], prepared=True).run(row[None]).values()
    assert np.allclose(served.outputs["patch_embeddings"], prepared[0], rtol=0, atol=1e-5)
    assert contract in (done.path / "report.html").read_text()
