"""Models and folders of timm that are refused, and preprocessing by its own transforms: `make test-timm`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import pytest
import timm_checkpoints as files
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral_engine.preprocess import Preprocessor
from vitral_export.loaded import Options
from vitral_export.sources import load

timm = pytest.importorskip("timm", reason="timm is not installed: make test-timm", exc_type=ImportError)
NAME = "vit_tiny_patch16_224"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return files.save(tmp_path / "saved", NAME)[1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18", "is a ResNet with NoneType; known are VisionTransformer and VisionTransformerDistilled"),
        ("vit_base_r50_s16_224", "is a VisionTransformer with HybridEmbed; known are"),
        ("eva02_tiny_patch14_224", "is a Eva with PatchEmbed; known are"),
    ],
)
def test_other_families_are_refused_by_name(name: str, said: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^timm:{name} {said}"):
        load(f"timm:{name}", Options())


def test_an_unknown_name_is_told_as_timm_tells_it() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"^timm:vit_none cannot be loaded: Unknown model \(vit_none\)"
    ):
        load("timm:vit_none", Options())


def _changed(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}, file)


def _without(held: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in held.items() if name != "norm.bias"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without, "has no norm.bias$"),
        (lambda held: held | {"extra": torch.zeros(2)}, "has, and the module has not, extra$"),
        (
            lambda held: held | {"pos_embed": torch.zeros(1, 10, 32)},
            r"pos_embed is \(1, 10, 32\), the module's is \(1, 5, 32\)$",
        ),
        (
            lambda held: held | {"norm.bias": held["norm.bias"] * math.nan},
            "weight norm.bias holds NaN or Inf in 32 of 32 elements$",
        ),
    ],
    ids=["missing", "one more", "another grid", "NaN"],
)
def test_weights_of_another_state_are_refused_by_name(folder: Path, change: Any, said: str) -> None:
    _changed(folder, change)
    with pytest.raises(InvalidArgumentError, match=said):
        load(f"timm:{NAME}@{folder}", Options())


def test_folders_that_are_not_what_they_say_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=f"config.json is of the architecture {NAME}$"):
        load(f"timm:vit_small_patch16_224@{folder}", Options())
    with pytest.raises(InvalidArgumentError, match="there is no file"):
        load(f"timm:{NAME}@{tmp_path}", Options())
    pickled = tmp_path / "model.bin"
    torch.save({}, pickled)
    with pytest.raises(InvalidArgumentError, match=r"is not a \.safetensors file: pickled weights"):
        load(f"timm:{NAME}@{pickled}", Options())
    with pytest.raises(InvalidArgumentError, match="takes no --img-size"):
        load(f"timm:{NAME}@{folder}", Options(img_size=64))
    (folder / "config.json").write_text("[]")
    with pytest.raises(InvalidArgumentError, match=r"config\.json names no architecture"):
        load(f"timm:{NAME}@{folder}", Options())


def _with_config(folder: Path, **entries: Any) -> Path:
    file = folder / "config.json"
    held = json.loads(file.read_text())
    held["pretrained_cfg"] |= entries
    file.write_text(json.dumps(held))
    return folder


def test_preprocessing_has_the_numbers_of_the_data_config(folder: Path) -> None:
    _with_config(folder, crop_pct=0.95, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], interpolation="bilinear")
    told = load(f"timm:{NAME}@{folder}", Options()).preprocessing
    assert told is not None
    assert (told.shortest_edge, told.crop_size.height, told.crop_size.width) == (33, 32, 32)
    assert told.resample == pb.RESAMPLE_BILINEAR
    assert (list(told.mean), list(told.std)) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_what_no_contract_does_is_left_to_say(folder: Path) -> None:
    loaded = load(f"timm:{NAME}@{_with_config(folder, crop_mode='border')}", Options())
    assert loaded.preprocessing is None
    assert "timm: crop_mode 'border' cannot be honoured; center and squash can" in loaded.undecided


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_pixels_are_those_of_timms_own_transform(folder: Path, crop_mode: str) -> None:
    loaded = load(f"timm:{NAME}@{_with_config(folder, crop_mode=crop_mode, crop_pct=0.8)}", Options())
    assert loaded.preprocessing is not None
    image = Image.open(photographs.ROCKET).convert("RGB")
    config = timm.data.resolve_model_data_config(loaded.module) | {"input_size": (3, 32, 32)}
    theirs = timm.data.create_transform(**config, is_training=False)(image).numpy()
    contract = Preprocessor(loaded.preprocessing)
    mine = contract.normalise(contract.resize(image)[None])[0]
    assert mine.shape == theirs.shape
    assert np.array_equal(mine, theirs)
