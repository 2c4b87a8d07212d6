"""What an adopted file says of itself, what is asked where it does not, and the files that are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_files
import pytest
from onnx import TensorProto, helper, numpy_helper

from vitral.errors import InvalidArgumentError, ProofError, VitralError
from vitral.v1 import model_pb2 as pb
from vitral_export import adopt, adopted, onnx_file
from vitral_export.loaded import Options

Change = Callable[[onnx.ModelProto], None]


def described(file: Path, **options: Any) -> adopted.Adopted:
    return adopted.describe(onnx_file.read(f"onnx:{file}"), Options(**options))


def refused(file: Path, **options: Any) -> str:
    with pytest.raises(VitralError) as caught:
        described(file, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_input(dtype: int, shape: list[Any]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", dtype, shape))

    return change


def set_weight(name: str, array: np.ndarray) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (item,) = (item for item in model.graph.initializer if item.name == name)
        item.CopyFrom(numpy_helper.from_array(array, name))

    return change


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 4]))


def custom(model: onnx.ModelProto) -> None:
    model.graph.node[2].op_type, model.graph.node[2].domain = "Swirl", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def external(location: str, *, offset: int = 0, length: int | None = None) -> Change:
    def change(model: onnx.ModelProto) -> None:
        item = model.graph.initializer[0]
        size = len(item.raw_data)
        item.ClearField("raw_data")
        item.data_location = TensorProto.EXTERNAL
        told = {"location": location, "offset": str(offset), "length": str(length or size)}
        item.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in told.items())

    return change


def opset(number: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = number

    return change


NAN = np.full((onnx_files.WIDTH,), np.nan, np.float32)
INF = np.array([1, np.inf, 3, 4, 5, 6], np.float32)
FAULTS: Mapping[str, tuple[Change, str]] = {
    "batch frozen": (
        set_input(TensorProto.FLOAT, [1, 3, 16, 16]),
        "the batch of input is frozen at 1: it has to be exported with a dynamic one",
    ),
    "batch frozen inside": (
        set_weight("shape", np.array([2, onnx_files.WIDTH, 4], np.int64)),
        "the batch is frozen inside, it runs for 2 and not for 1 images: ",
    ),
    "batch made of patches": (
        set_weight("shape", np.array([2, onnx_files.WIDTH, -1], np.int64)),
        "the batch is frozen inside, tokens_0 has 2 rows for 1 images",
    ),
    "half input": (
        set_input(TensorProto.FLOAT16, ["N", 3, 16, 16]),
        "input is float16 of 4 axes, float32 (B, C, H, W) is expected",
    ),
    "tokens in": (set_input(TensorProto.FLOAT, ["N", 4, 6]), "input is float of 3 axes"),
    "two inputs": (second_input, "takes 2 tensors (input, mask), one image is expected"),
    "NaN": (set_weight("b", NAN), "b holds NaN in 6 of 6 elements"),
    "Inf": (set_weight("b", INF), "b holds Inf in 1 of 6 elements"),
    "custom operator": (custom, "onnxruntime cannot open it: "),
    "too old": (opset(10), "is of opset 10; 11 to 23 are adopted"),
    "too new": (opset(24), "is of opset 24; 11 to 23 are adopted"),
    "outside": (external("../w.bin"), "w has its values in '../w.bin', which leaves the folder"),
    "absolute": (external("/etc/hostname"), "w has its values in '/etc/hostname', which leaves the folder"),
    "windows": (external("..\\w.bin"), "which leaves the folder"),
    "drive": (external("C:\\w.bin"), "which leaves the folder"),
    "missing": (external("w.bin"), "w has its values in w.bin, which is missing"),
    "cut short": (external("short.bin"), "w ends at byte 4608 of short.bin, which has 9"),
    "before": (external("short.bin", offset=-4), "of short.bin, which has 9"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    change, said = FAULTS[name]
    (tmp_path / "short.bin").write_bytes(b"too short")
    told = refused(onnx_files.by_hand(tmp_path / "m.onnx", change), patch_size=8)
    assert said in told
    assert told.startswith(f"onnx:{tmp_path / 'm.onnx'}")


@pytest.mark.parametrize("data", [b"", b"hello, I am no model", b"\x89PNG\r\n\x1a\n", bytes(100)])
def test_what_is_no_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    assert "is not an ONNX file" in refused(tmp_path / "m.onnx")


def test_a_damaged_file_is_refused_in_one_line_or_harmless(tmp_path: Path) -> None:
    data = onnx_files.by_hand(tmp_path / "whole.onnx").read_bytes()
    random = np.random.default_rng(5)
    places = [*range(300), *range(len(data) - 300, len(data))]  # around the weights' own bytes
    told = []
    for number in range(150):
        damaged = bytearray(data)
        for place in random.choice(places, 1 + number % 3):
            damaged[place] = int(random.integers(256))
        (tmp_path / "m.onnx").write_bytes(damaged if number % 10 else damaged[: random.integers(len(data))])
        try:
            described(tmp_path / "m.onnx", patch_size=8)
        except VitralError as error:
            told.append(str(error))
    assert len(told) > 50
    assert not any("\n" in line for line in told)


def test_a_path_to_nothing_is_refused_and_leaves_nothing(tmp_path: Path, refusal: Callable[..., str]) -> None:
    assert "is no file" in refusal(f"onnx:{tmp_path / 'none.onnx'}")
    assert "is a folder: name the .onnx file in it" in refusal(f"onnx:{tmp_path}")
    file = onnx_files.by_hand(tmp_path / "m.onnx", set_weight("b", NAN))
    assert "b holds NaN" in refusal(f"onnx:{file}")
    assert "takes no --embed-dim" in refusal(f"onnx:{file}", "--embed-dim", "6")
    assert "--reference is for onnx:FILE" in refusal("patch-embedding", "--reference", "hf:x")


def test_sizes_come_from_the_file_where_nothing_lies_beside_it(tmp_path: Path) -> None:
    found = described(onnx_files.by_hand(tmp_path / "m.onnx"))
    sizes = found.architecture
    assert (sizes.image_size.height, sizes.patch_size.height, sizes.grid.width) == (16, 8, 2)
    assert (sizes.in_channels, sizes.embed_dim, sizes.module) == (3, 6, "ONNX")
    assert found.input.name == "pixel_values"
    (output,) = found.outputs
    assert (output.name, [axis.size for axis in output.axes]) == ("tokens_0", [0, 4, 6])
    assert [axis.name for axis in output.axes] == ["batch", "token", "feature"]
    assert found.embedding["projection.weight"].shape == (6, 3, 8, 8)
    assert "has no preprocessor_config.json" in found.undecided
    assert found.source.reference == f"{tmp_path.name}/m.onnx"


def test_what_is_not_said_is_asked_for(tmp_path: Path) -> None:
    dynamic = set_input(TensorProto.FLOAT, ["N", "C", "H", "W"])
    file = onnx_files.by_hand(tmp_path / "m.onnx", dynamic)
    assert "does not say the size of its images: --img-size does" in refused(file)
    assert described(file, img_size=32).architecture.grid.height == 4
    assert "takes images of 16 x 16, --img-size says 32" in refused(
        onnx_files.by_hand(tmp_path / "fixed.onnx"), img_size=32
    )
    registers = described(file, img_size=16, patch_size=16, prefix_tokens=("cls", "register", "register"))
    assert list(registers.outputs[0].prefix_tokens) == [1, 3, 3]
    assert "tokens_0 has 4 tokens for 1 patches: --prefix-tokens says" in refused(
        file, img_size=16, patch_size=16
    )
    assert "no output has 1 tokens in front of 4 patches" in refused(
        file, img_size=16, prefix_tokens=("cls",)
    )


def test_config_and_preprocessor_may_lie_one_up(tmp_path: Path) -> None:
    (tmp_path / "vit" / "onnx").mkdir(parents=True)
    file = tmp_path / "vit" / "onnx" / "model.onnx"
    onnx_files.by_hand(file, save_as_external_data=True, size_threshold=0, location="model.onnx_data")
    config = {"model_type": "vit", "image_size": 16, "patch_size": [8, 8], "architectures": ["ViTModel"]}
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config | {"num_channels": 3}))
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"size": 16, "image_mean": 0.4}')
    found = described(file)
    assert found.architecture.module == "ViTModel"
    assert found.preprocessing is not None
    assert list(found.preprocessing.mean) == [0.4] * 3
    assert found.source.reference == "vit/onnx/model.onnx"
    (tmp_path / "vit" / "config.json").write_text("{")
    assert "config.json beside it cannot be read" in refused(file)


def test_external_weights_may_be_links_as_in_a_download_cache(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    saving = {"save_as_external_data": True, "size_threshold": 0, "location": "w.data"}
    plain = described(onnx_files.by_hand(tmp_path / "blobs" / "m.onnx", **saving))
    for name in ("m.onnx", "w.data"):
        os.symlink(f"../blobs/{name}", tmp_path / "snapshot" / name)
    linked = described(tmp_path / "snapshot" / "m.onnx")
    assert linked.model == plain.model
    assert linked.source.weights_sha256 == plain.source.weights_sha256
    assert linked.source.reference == "snapshot/m.onnx"


def test_outputs_are_chosen_and_named(tmp_path: Path) -> None:
    file = onnx_files.by_hand(tmp_path / "m.onnx")
    assert described(file, outputs=("tokens_0",)).outputs[0].name == "tokens_0"
    assert described(file, outputs=("patches=/tokens:0",)).outputs[0].name == "patches"
    assert "has no output 'x'; it has /tokens:0" in refused(file, outputs=("x",))
    assert "name one twice" in refused(file, outputs=("a=/tokens:0", "b=/tokens:0"))
    assert "cannot be called 'pixel_values'" in refused(file, outputs=("pixel_values=/tokens:0",))


def add_output(kind: str, dtype: int, **attributes: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(kind, ["c"], ["extra"], **attributes))
        model.graph.output.append(helper.make_tensor_value_info("extra", dtype, None))

    return change


def test_outputs_that_cannot_be_served_can_be_left_out(tmp_path: Path) -> None:
    file = onnx_files.by_hand(tmp_path / "m.onnx", add_output("ArgMax", TensorProto.INT64, axis=1))
    assert "output extra is int64" in refused(file)
    found = described(file, outputs=("tokens_0",))
    assert [item.op_type for item in found.model.graph.node] == ["Conv", "Reshape", "Transpose"]
    mean = onnx_files.by_hand(
        tmp_path / "mean.onnx", add_output("ReduceMean", TensorProto.FLOAT, axes=[0], keepdims=1)
    )
    assert "the batch is frozen inside, extra has 1 rows for 2 images" in refused(mean)


def centred(model: onnx.ModelProto) -> None:
    """Subtracts the mean over the batch: an image's answer depends on its neighbours."""
    model.graph.node[0].input[0] = "centred"
    mean = helper.make_node("ReduceMean", ["input"], ["mean"], axes=[0], keepdims=1)
    model.graph.node.insert(0, helper.make_node("Sub", ["input", "mean"], ["centred"]))
    model.graph.node.insert(0, mean)


def test_a_model_whose_answers_depend_on_the_batch_is_refused(tmp_path: Path) -> None:
    file = onnx_files.by_hand(tmp_path / "m.onnx", centred)
    with pytest.raises(ProofError, match="off its own run at adoption"):
        adopt(file, name="m", repo=tmp_path / "models", preprocessing="none", options=Options(patch_size=8))
    assert not (tmp_path / "models").exists()


def test_preprocessing_has_to_be_said(tmp_path: Path) -> None:
    file = onnx_files.by_hand(tmp_path / "m.onnx")
    with pytest.raises(InvalidArgumentError, match=r"--preprocessing FILE\.json says what"):
        adopt(file, name="m", repo=tmp_path / "models")
    (tmp_path / "p.json").write_text('{"size": 16}')
    done = adopt(file, name="m", repo=tmp_path / "models", preprocessing=tmp_path / "p.json")
    assert [graph.file for graph in done.spec.graphs] == ["model_uint8.onnx", "model.onnx"]
    assert done.spec.proof.status == pb.PROOF_STATUS_UNPROVEN


def test_where_normalisation_cannot_be_folded_in_there_is_no_uint8_graph(tmp_path: Path) -> None:
    def padded(model: onnx.ModelProto) -> None:
        model.graph.node[0].attribute.append(helper.make_attribute("pads", [0, 0, 8, 8]))
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("/tokens:0", 1, ["N", 9, 6]))

    (tmp_path / "p.json").write_text('{"size": 16}')
    file = onnx_files.by_hand(tmp_path / "m.onnx", padded)
    options = Options(prefix_tokens=("register",) * 5)
    done = adopt(file, name="m", repo=tmp_path / "models", preprocessing=tmp_path / "p.json", options=options)
    assert [graph.file for graph in done.spec.graphs] == ["model.onnx"]


@pytest.mark.parametrize("options", [("--opset", "23"), ("--precision", "float16"), ("--dynamic-size",)])
def test_what_would_change_the_file_is_refused(
    tmp_path: Path, refusal: Callable[..., str], options: tuple[str, ...]
) -> None:
    file = onnx_files.by_hand(tmp_path / "m.onnx")
    assert f"takes no {options[0]}: the file is what it is" in refusal(f"onnx:{file}", *options)
