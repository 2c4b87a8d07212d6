"""The spec: read, checked, asked; and the results that are shaped by it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vitral import spec as specs
from vitral.errors import ArtifactError, InvalidArgumentError
from vitral.limits import SCHEMA
from vitral.results import Embedding
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2

F32, U8 = tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_UINT8


def _axes(*pairs: tuple[str, int]) -> list[pb.Axis]:
    return [pb.Axis(name=name, size=size) for name, size in pairs]


def _graph(file: str, dtype: int, outputs: list[str], *, folded: bool) -> pb.Graph:
    axes = _axes(("batch", 0), ("channel", 3), ("height", 4), ("width", 4))
    given = pb.GraphInput(name="pixel_values", dtype=dtype, axes=axes, folded=folded)
    return pb.Graph(file=file, input=given, outputs=outputs)


@pytest.fixture
def spec() -> pb.ModelSpec:
    """2 x 2 patches of width 3, with a CLS and a register token in front."""
    tokens = _axes(("batch", 0), ("token", 6), ("feature", 3))
    prefix = [pb.PREFIX_TOKEN_CLS, pb.PREFIX_TOKEN_REGISTER]
    return pb.ModelSpec(
        schema=1,
        name="vit",
        opset=20,
        graphs=[
            _graph("model_uint8.onnx", U8, ["hidden"], folded=True),
            _graph("model.onnx", F32, ["hidden", "pooled"], folded=False),
        ],
        outputs=[
            pb.Output(
                name="hidden", axes=tokens, prefix_tokens=prefix, trained=True, image_dependent_prefix=True
            ),
            pb.Output(name="pooled", axes=_axes(("batch", 0), ("feature", 3)), trained=True),
        ],
        default_outputs=["hidden"],
        source=pb.Source(weights=pb.WEIGHTS_ORIGIN_RANDOM, libraries={"torch": "2", "onnx": "1"}),
        sha256={"model.onnx": "aa", "weights.bin": "bb", "manifest-note": "cc"},
    )


def test_json_and_back_is_the_same_and_always_the_same_text(spec: pb.ModelSpec) -> None:
    text = specs.to_json(spec)
    assert specs.from_json(text) == spec
    again = pb.ModelSpec.FromString(spec.SerializeToString())
    assert specs.to_json(again) == text
    assert list(json.loads(text)["sha256"]) == ["manifest-note", "model.onnx", "weights.bin"]
    assert json.loads(text)["outputs"][0]["axes"][1]["size"] == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "no schema number"),
        ("{}", "no schema number"),
        ('{"schema": 0}', "no schema number"),
        ('{"schema": "1"}', "no schema number"),
        (f'{{"schema": {SCHEMA + 1}}}', f"schema {SCHEMA + 1}, this vitral reads up to {SCHEMA}: upgrade"),
        ('{"schema": 1, "colour": 3}', "not a ModelSpec: .*colour"),
        ('{"schema": 1, "opset": "x"}', "not a ModelSpec"),
        ('{"schema": 1}', "no name"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        specs.from_json(text)


def test_a_spec_that_contradicts_itself_is_refused(spec: pb.ModelSpec) -> None:
    def broken(message: str, **changes: object) -> None:
        other = pb.ModelSpec.FromString(spec.SerializeToString())
        for name, value in changes.items():
            other.ClearField(name)
            getattr(other, name).extend(value)
        with pytest.raises(ArtifactError, match=message):
            specs.check(other, where="here")

    specs.check(spec)
    untrained = pb.Output(name="hidden", axes=spec.outputs[0].axes, trained=False)
    static = pb.Output(name="hidden", axes=_axes(("batch", 2), ("token", 6)), trained=True)
    broken("here: no graphs", graphs=[])
    broken("its graphs give", outputs=[spec.outputs[0]])
    broken("two outputs of one name", outputs=[*spec.outputs, spec.outputs[0]])
    broken("no default outputs", default_outputs=[])
    broken("some are not outputs", default_outputs=["hidden", "other"])
    broken("untrained: \\['hidden'\\]", outputs=[untrained, spec.outputs[1]])
    broken("first axis is not the batch", outputs=[static, spec.outputs[1]])


def test_questions_about_outputs_and_graphs(spec: pb.ModelSpec) -> None:
    assert specs.output(spec, "pooled").name == "pooled"
    with pytest.raises(InvalidArgumentError, match="model vit has no output 'x'; it has hidden, pooled"):
        specs.output(spec, "x")
    assert specs.item_shape(spec.outputs[0].axes) == (6, 3)
    assert [specs.has_patches(item) for item in spec.outputs] == [True, False]
    assert specs.is_random(spec)
    assert specs.float_graph(spec).file == "model.onnx"
    assert specs.cheapest_graph(spec, ["hidden"], pixels=True).file == "model_uint8.onnx"
    assert specs.cheapest_graph(spec, ["hidden"], pixels=False).file == "model.onnx"
    assert specs.cheapest_graph(spec, ["hidden", "pooled"], pixels=True).file == "model.onnx"
    with pytest.raises(InvalidArgumentError, match="no graph of model vit gives hidden, x together"):
        specs.cheapest_graph(spec, ["hidden", "x"], pixels=True)


def test_identity_is_of_what_embeds_and_of_nothing_else(spec: pb.ModelSpec) -> None:
    base = {"model.onnx": "aa", "model_uint8.onnx": "ab", "weights.bin": "bb", "embedding.safetensors": "cc"}
    identity = specs.identity(spec, base)
    assert len(identity) == 64
    assert specs.identity(spec, {**base, "verification.json": "dd", "golden.safetensors": "ee"}) == identity
    for name in base:
        assert specs.identity(spec, {**base, name: "zz"}) != identity
    spec.preprocessing.mean.extend([0.5])
    changed = specs.identity(spec, base)
    assert changed != identity
    spec.opset = 23
    assert specs.identity(spec, base) != changed


def _embedding(spec: pb.ModelSpec, **outputs: np.ndarray) -> Embedding:
    return Embedding(outputs=outputs, grid=(2, 2), spec=spec, version="1")


def test_results_are_views_that_axes_and_prefix_determine(spec: pb.ModelSpec) -> None:
    hidden = np.arange(18, dtype=np.float32).reshape(6, 3)
    result = _embedding(spec, pooled=np.ones(3, np.float32), hidden=hidden)
    np.testing.assert_array_equal(result.patches, hidden[2:])
    np.testing.assert_array_equal(result.cls, hidden[0])
    np.testing.assert_array_equal(result.patch_grid, hidden[2:].reshape(2, 2, 3))
    assert np.shares_memory(result.patch_grid, hidden)
    assert result.model == "vit"
    assert "hidden 6 x 3 float32" in repr(result)


def test_results_refuse_what_they_do_not_have(spec: pb.ModelSpec) -> None:
    hidden = np.zeros((6, 3), np.float32)
    with pytest.raises(InvalidArgumentError, match="none of the outputs pooled is a token sequence"):
        _ = _embedding(spec, pooled=np.zeros(3, np.float32)).patches
    spec.outputs[0].image_dependent_prefix = False
    with pytest.raises(InvalidArgumentError, match="does not depend on the image"):
        _ = _embedding(spec, hidden=hidden).cls
    spec.outputs[0].ClearField("prefix_tokens")
    with pytest.raises(InvalidArgumentError, match="no CLS token"):
        _ = _embedding(spec, hidden=hidden).cls


def test_words_are_no_part_of_the_identity() -> None:
    model = pb.ModelSpec(opset=20, preprocessing=pb.Preprocessing(contract="hf-pil", bound="to the last bit"))
    said = specs.identity(model, {})
    model.preprocessing.bound = "in other words"
    assert specs.identity(model, {}) == said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("contract", "hf-torchvision"),
        ("rescale_factor", 0.5),
        ("resample", pb.RESAMPLE_BICUBIC),
        ("size", tensor_pb2.ImageSize(height=8, width=8)),
        ("crop_size", tensor_pb2.ImageSize(height=8, width=8)),
        ("shortest_edge", 8),
        ("mean", [0.5]),
        ("std", [0.5]),
        ("high_depth", "divide-by-257"),
    ],
)
def test_every_number_of_the_preprocessing_is_part_of_the_identity(field: str, value: Any) -> None:
    model = pb.ModelSpec(opset=20, preprocessing=pb.Preprocessing(contract="hf-pil"))
    before = specs.identity(model, {})
    model.preprocessing.MergeFrom(pb.Preprocessing(**{field: value}))
    assert specs.identity(model, {}) != before


def test_a_crop_is_the_size_of_the_input() -> None:
    size, crop = tensor_pb2.ImageSize(height=9, width=8), tensor_pb2.ImageSize(height=7, width=6)
    assert specs.input_size(pb.Preprocessing(size=size)) == size
    assert specs.input_size(pb.Preprocessing(size=size, crop_size=crop)) == crop
