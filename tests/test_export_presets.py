"""Whole ViTs of the usual sizes with random weights, and sources of timm where timm is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ViTModel

from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import open_artifact
from vitral_export.cli import main
from vitral_export.families import preset
from vitral_export.families.preset import Shape
from vitral_export.loaded import Loaded, Options
from vitral_export.sources import load

TOKENS = ["last_hidden_state", "patch_embeddings", "embeddings"]
SMALL = {"img_size": 28, "patch_size": 14}


COUNTS = {"vit-tiny": 5_524_416, "vit-small": 21_665_664, "vit-base": 85_798_656, "vit-large": 303_301_632}
"""Parameters at 224 x 224 in patches of 16, as they are known; without a pooler."""


@pytest.fixture
def _shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer of width 48 in place of twelve of 192."""
    monkeypatch.setattr(preset, "SHAPES", {"vit-tiny": Shape(48, 1, 3)})


def tiny(**options: Any) -> Loaded:
    return load("vit-tiny", Options(**SMALL, **options))


@pytest.mark.parametrize("name", COUNTS)
def test_sizes_are_those_of_the_papers(name: str) -> None:
    with torch.device("meta"):
        model = ViTModel(preset.config(name, Options()), add_pooling_layer=False)
    assert sum(item.numel() for item in model.parameters()) == COUNTS[name]
    assert all(layer.attention.head_dim == 64 for layer in model.layers)


def test_a_whole_one_is_made() -> None:
    loaded = load("vit-tiny", Options(img_size=64, patch_size=32))
    sizes = loaded.architecture
    assert (sizes.image_size.height, sizes.patch_size.height, sizes.embed_dim) == (64, 32, 192)
    assert [axis.size for axis in loaded.outputs[0].axes] == [0, 5, 192]


@pytest.mark.usefixtures("_shallow")
@pytest.mark.parametrize(("image", "patch"), [(28, 14), (32, 16), (64, 32), (48, 8)])
def test_every_patch_size_tiles_its_image(image: int, patch: int) -> None:
    loaded = load("vit-tiny", Options(img_size=image, patch_size=patch))
    assert loaded.architecture.grid.height == image // patch
    assert [axis.size for axis in loaded.outputs[0].axes] == [0, (image // patch) ** 2 + 1, 48]


@pytest.mark.usefixtures("_shallow")
def test_a_seed_gives_its_weights_at_a_sane_scale() -> None:
    first, second, other = (tiny(seed=seed).module.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embeddings.cls_token"], other["embeddings.cls_token"])
    for name, tensor in first.items():
        if tensor.dim() > 1:
            assert 0.015 < float(tensor.std()) < 0.025, name


@pytest.mark.usefixtures("_shallow")
def test_weights_do_not_depend_on_the_outputs() -> None:
    plain, pooled = tiny(), tiny(allow_untrained=("pooler_output",))
    held = pooled.module.state_dict()
    assert all(torch.equal(tensor, held[name]) for name, tensor in plain.module.state_dict().items())


@pytest.mark.usefixtures("_shallow")
def test_random_weights_are_called_random(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["build", "vit-tiny", "--name", "m", "--repo", str(tmp_path)]
    line += ["--img-size", "28", "--patch-size", "14", "--outputs", "embeddings", "--preprocessing", "none"]
    assert main(line) == 0
    assert "RANDOM WEIGHTS, SEED 0" in capsys.readouterr().out
    assert "Random weights, seed 0" in (tmp_path / "m" / "1" / "report.html").read_text()
    source = open_artifact(tmp_path / "m").spec.source
    assert (source.kind, source.weights) == ("vit-tiny", pb.WEIGHTS_ORIGIN_RANDOM)
    assert source.weights_note == "random weights, seed 0"
    assert main(line) == 0
    assert "has this identity already" in capsys.readouterr().out


@pytest.mark.usefixtures("_shallow")
def test_the_pooler_is_exported_where_it_is_allowed_only() -> None:
    loaded = tiny()
    assert [item.name for item in loaded.outputs] == TOKENS
    assert loaded.left_out == ()  # nobody could have trained it
    with pytest.raises(InvalidArgumentError, match="output pooler_output is untrained"):
        tiny(outputs=("pooler_output",))
    allowed = tiny(allow_untrained=("pooler_output",)).outputs
    assert {item.name: item.trained for item in allowed} == {
        **dict.fromkeys(TOKENS, True),
        "pooler_output": False,
    }


@pytest.mark.usefixtures("_shallow")
def test_other_channels_have_no_preprocessing() -> None:
    assert tiny(in_channels=4).preprocessing is None
    told = tiny().preprocessing
    assert told is not None
    assert (told.contract, told.size.height) == ("hf-pil", 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 15}, "img_size 224 is not a multiple of patch_size 15: 14 pixels are left over"),
        ({"img_size": 0}, "img_size must be a positive whole number, not 0"),
        ({"embed_dim": 8}, "source vit-small takes no --embed-dim"),
        ({"weights": "hf:x"}, "source vit-small takes no --weights"),
        ({"outputs": ("logits",)}, "there is no output 'logits'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        load("vit-small", Options(**options))


@pytest.mark.parametrize("missing", ["timm", "torchvision"])
def test_timm_that_is_missing_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    if missing == "timm":
        monkeypatch.setitem(sys.modules, "timm", None)
    else:
        (tmp_path / "timm.py").write_text("import torchvision\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "timm", raising=False)
        monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UnsupportedError) as caught:
        load("timm:vit_tiny_patch16_224", Options())
    expected = f"timm:vit_tiny_patch16_224: {missing} is not installed: add vitral[timm]"
    assert str(caught.value) == expected


@pytest.mark.parametrize("name", ["timm:", "timm:vit_tiny_patch16_224@", "timm:@folder"])
def test_a_name_of_timm_is_complete(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{name} is not timm:NAME or timm:NAME@FOLDER$"):
        load(name, Options())
