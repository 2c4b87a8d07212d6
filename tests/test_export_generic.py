"""Checkpoints of no known family: tried through AutoModel, then proven as what they are, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import vit_checkpoints as vits

import vitral_engine
from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral_export.build import build
from vitral_export.loaded import Loaded, Options
from vitral_export.sources import load


def of(folder: Path, **options: Any) -> Loaded:
    return load(f"hf:{folder}", Options(**options))


@pytest.fixture(scope="module")
def ijepa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """I-JEPA: a ViT without a CLS token, which is not in the table."""
    made = vits.trained(hf.IJepaModel, hf.IJepaConfig(**vits.OTHER_SIZES))
    return vits.save(tmp_path_factory.mktemp("generic") / "ijepa", made)


def test_a_model_outside_the_table_is_proven_and_served(ijepa: Path, tmp_path: Path) -> None:
    done = build(of(ijepa), name="m", repo=tmp_path)
    spec = done.spec
    assert spec.proof.status == pb.PROOF_STATUS_PROVEN
    assert [item.name for item in spec.outputs] == ["last_hidden_state"]
    assert [(axis.name, axis.size) for axis in spec.outputs[0].axes] == [
        ("batch", 0),
        ("token", 16),
        ("feature", 32),
    ]
    assert list(spec.preprocessing.mean) == pytest.approx(vits.MEAN)
    assert spec.source.kind == "hf"
    torch.manual_seed(2)
    rows = torch.randn(2, 3, 32, 32)
    model = vitral_engine.open(done.path, device="cpu")
    served = model.session_for(["last_hidden_state"], prepared=True).run(rows.numpy())["last_hidden_state"]
    with torch.no_grad():
        truth = hf.IJepaModel.from_pretrained(ijepa).eval().double()(rows.double()).last_hidden_state.numpy()
    assert np.linalg.norm(served - truth) <= 2e-6 * np.linalg.norm(truth)


def test_its_prefix_tokens_can_be_told(tmp_path: Path) -> None:
    config = hf.Data2VecVisionConfig(**vits.OTHER_SIZES, use_relative_position_bias=True)
    saved = vits.save(tmp_path / "saved", vits.trained(hf.Data2VecVisionModel, config), processor=False)
    plain, told = of(saved), of(saved, prefix_tokens=("cls",))
    assert [axis.name for axis in plain.outputs[0].axes] == ["batch", "axis_1", "feature"]
    assert [axis.name for axis in told.outputs[0].axes] == ["batch", "token", "feature"]
    assert list(told.outputs[0].prefix_tokens) == [pb.PREFIX_TOKEN_CLS]


def test_its_untrained_pooler_is_left_out(tmp_path: Path) -> None:
    config = hf.YolosConfig(**{**vits.OTHER_SIZES, "image_size": [32, 32]}, num_detection_tokens=2)
    made = vits.trained(hf.YolosModel, config, add_pooling_layer=False)
    saved = vits.save(tmp_path / "saved", made, processor=False)
    assert of(saved).left_out == ("pooler_output",)
    with pytest.raises(InvalidArgumentError, match="output pooler_output is untrained"):
        of(saved, outputs=("pooler_output",))


def test_a_model_that_cannot_be_compared_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    saved = vits.save(tmp_path / "saved", vits.trained(hf.ResNetModel, config), processor=False)
    assert "does not say the size of its images: --img-size does" in refusal(f"hf:{saved}")
    said = refusal(f"hf:{saved}", "--img-size", "32", "--preprocessing", "none")
    assert "structure: no rule for torch's operator aten.max_pool2d.default" in said


def test_a_model_that_takes_more_than_images_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = hf.BlipConfig(text_config=text, vision_config={**vits.OTHER_SIZES}, projection_dim=8)
    saved = vits.save(tmp_path / "saved", vits.trained(hf.BlipModel, config), processor=False)
    assert "a blip model" in refusal(f"hf:{saved}", "--img-size", "32")


def test_a_weight_that_is_missing_or_left_over_is_named(ijepa: Path, tmp_path: Path) -> None:
    less, more = (vits.copy(ijepa, tmp_path / name) for name in ("less", "more"))
    gone = "layernorm.bias"
    vits.change(less, lambda held: {name: tensor for name, tensor in held.items() if name != gone})
    with pytest.raises(InvalidArgumentError, match=f"lacks {gone}"):
        of(less)
    vits.change(more, lambda held: held | {"neck.weight": torch.ones(2)})
    with pytest.raises(InvalidArgumentError, match=r"has unknown neck\.weight"):
        of(more)
