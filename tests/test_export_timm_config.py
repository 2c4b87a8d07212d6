"""Contract timm against timm's own evaluation transform, and what its configurations mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import goldens
import pytest

from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine.preprocess import Preprocessor
from vitral_export.preprocessing import choose
from vitral_export.timm_config import from_timm

GOLDEN = goldens.load("golden_timm")

# As timm has it in a checkpoint's config.json.
CHECKPOINT: dict[str, Any] = {
    "architecture": "vit_base_patch16_224",
    "num_classes": 0,
    "pretrained_cfg": {
        "tag": "augreg_in21k",
        "custom_load": False,
        "input_size": [3, 224, 224],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "first_conv": "patch_embed.proj",
    },
}


def test_the_goldens_say_what_made_them() -> None:
    assert set(GOLDEN["libraries"]) == {"numpy", "pillow", "timm", "torch", "torchvision"}
    assert len(GOLDEN["cases"]) == 25


def _id(case: dict[str, Any]) -> str:
    config = case["config"]
    sides = "x".join(map(str, config["input_size"][1:]))
    told = [str(config[key]) for key in ("crop_pct", "interpolation", "crop_mode") if key in config]
    return "-".join([case["photograph"], sides, *told])


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=_id)
def test_pixels_and_rows_equal_timm(case: dict[str, Any]) -> None:
    goldens.demand_pillow(GOLDEN["libraries"], make="golden-timm")
    ours = Preprocessor(from_timm(case["config"]))
    pixels = ours.resize(goldens.source(case))
    assert goldens.sha256(pixels) == case["uint8_sha256"]
    assert goldens.sha256(ours.normalise(pixels)) == case["float32_sha256"]


def test_a_version_of_pillow_without_goldens_is_named() -> None:
    with pytest.raises(
        AssertionError, match=r"goldens are of Pillow 1\.2, of .* none are known: run `make x`"
    ):
        goldens.demand_pillow({"pillow": "1.2"}, make="x")


def test_a_models_configuration_is_read() -> None:
    told = from_timm(CHECKPOINT)
    assert (told.contract, told.shortest_edge, told.resample) == ("timm", 248, pb.RESAMPLE_BICUBIC)
    assert told.crop_size == tensor_pb2.ImageSize(height=224, width=224)
    assert list(told.mean) == list(told.std) == [0.5] * 3
    assert from_timm(CHECKPOINT["pretrained_cfg"]) == told
    assert "bit for bit timm" in told.bound


def test_what_is_absent_is_timms_default() -> None:
    told = from_timm({"crop_pct": None, "mean": (), "std": None, "crop_mode": ""})
    assert (told.shortest_edge, told.crop_size.width, told.resample) == (256, 224, pb.RESAMPLE_BICUBIC)
    assert list(told.mean) == [0.485, 0.456, 0.406]


def test_a_file_is_chosen_by_name(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CHECKPOINT))
    size = tensor_pb2.ImageSize(height=224, width=224)
    own = from_timm({"input_size": (3, 224, 224)})
    assert choose(f"timm:{file}", own=own, size=size) == from_timm(CHECKPOINT)
    assert choose("timm", own=own, size=size) == own


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"crop_mode": "border"}, "crop_mode 'border' cannot be honoured; center and squash can"),
        ({"crop_border_pixels": 4}, "crop_border_pixels cannot be honoured"),
        ({"interpolation": "random"}, "interpolation 'random' cannot be honoured; known are nearest"),
        ({"input_size": (3, 224, 196)}, "224 x 196 in crop_mode center cannot be honoured; squash can"),
        ({"input_size": (1, 28, 28)}, "input_size has 1 channels; pictures have 3"),
        ({"input_size": 224}, "input_size is channels, height and width, not 224"),
        ({"input_size": (3, 0, 8)}, "input_size is channels"),
        ({"crop_pct": "0.9"}, "crop_pct is a number from 0.01 to 10, not '0.9'"),
        ({"crop_pct": 1e-9}, "crop_pct is a number from 0.01"),
        ({"mean": (0.5,)}, "mean is three numbers"),
        ({"std": (0.5, 0.5, 0)}, "positive deviations"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        from_timm(config)
