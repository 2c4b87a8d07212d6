"""`vitral-export convert`: the layout of transformers.js, whole or not at all, and its tensors the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import vit_checkpoints as vits
from transformers import AutoConfig, ViTImageProcessorPil

import vitral_engine
from vitral_engine.artifact import open_artifact
from vitral_export import convert
from vitral_export.cli import main

NODE = os.environ.get("VITRAL_NODE", "")
"""Folder where npm has put @huggingface/transformers."""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vit`, a checkpoint of transformers; `other`, another one; `rows`, without pictures."""
    folder = tmp_path_factory.mktemp("convert")
    made = folder / "models"
    for name, seed in (("vit", 0), ("other", 1)):
        place = vits.save(folder / name, vits.model({**vits.OTHER, "initializer_range": 0.02 + seed / 100}))
        assert main(["build", f"hf:{place}", "--name", name, "--repo", str(made)]) == 0
    sizes = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")
    assert main(["build", "patch-embedding", "--name", "random", "--repo", str(made), *sizes]) == 0
    sizes = (*sizes, "--preprocessing", "none")
    assert main(["build", "patch-embedding", "--name", "rows", "--repo", str(made), *sizes]) == 0
    return made


@pytest.fixture(scope="module")
def converted(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "vit"
    assert main(["convert", str(repo / "vit"), "--to", str(folder)]) == 0
    return folder


def test_the_files_are_those_of_the_layout(repo: Path, converted: Path) -> None:
    files = sorted(str(path.relative_to(converted)) for path in converted.rglob("*") if path.is_file())
    assert files == ["config.json", "onnx/model.onnx", "preprocessor_config.json"]
    config = AutoConfig.from_pretrained(converted)
    assert (config.model_type, config.hidden_size, config.image_size, config.patch_size) == ("vit", 32, 32, 8)
    assert (config.num_hidden_layers, config.hidden_act, config.qkv_bias) == (1, "gelu_new", False)
    assert config.architectures == ["ViTModel"]
    assert "_name_or_path" not in (converted / "config.json").read_text()
    processor = ViTImageProcessorPil.from_pretrained(converted)
    assert list(processor.image_mean) == pytest.approx(vits.MEAN)
    mine, its = (
        json.loads((folder / "preprocessor_config.json").read_text())
        for folder in (open_artifact(repo / "vit").folder, converted)
    )
    assert its.pop("image_processor_type") == "ViTImageProcessor", "as transformers.js knows it"
    assert mine.pop("image_processor_type") == "ViTImageProcessorPil"
    assert mine == its


def test_the_graph_is_the_artifact_s_own(repo: Path, converted: Path) -> None:
    mine = onnx.load(open_artifact(repo / "vit").folder / "model.onnx")
    its = onnx.load(converted / "onnx/model.onnx")
    assert [node.op_type for node in its.graph.node] == [node.op_type for node in mine.graph.node]
    for one, other in zip(its.graph.initializer, mine.graph.initializer, strict=True):
        assert not one.external_data
        assert (one.name, one.raw_data) == (other.name, other.raw_data)
    rows = _rows(3)
    session = onnxruntime.InferenceSession(converted / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    model = vitral_engine.open(repo / "vit", device="cpu")
    want = model.session_for(names, prepared=True).run(rows)
    for name, got in zip(names, session.run(None, {"pixel_values": rows}), strict=True):
        np.testing.assert_allclose(got, want[name], rtol=1e-5, atol=1e-6)


def _rows(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 32, 32)).astype(np.float32)


def test_large_weights_lie_beside_the_graph(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "_MOST_INSIDE", 4096)
    convert.convert(repo / "vit", tmp_path / "large")
    assert (tmp_path / "large/onnx/model.onnx_data").stat().st_size > 4096
    session = onnxruntime.InferenceSession(
        tmp_path / "large/onnx/model.onnx", providers=["CPUExecutionProvider"]
    )
    assert session.run(None, {"pixel_values": _rows(2)})[0].shape[0] == 2


def test_a_source_without_a_configuration_gets_its_sizes(repo: Path, tmp_path: Path) -> None:
    convert.convert(repo / "random", tmp_path / "random")
    config = json.loads((tmp_path / "random/config.json").read_text())
    assert (config["image_size"], config["patch_size"], config["hidden_size"]) == (32, 8, 16)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["rows"], "takes no pictures"),
        (["none"], "no model at"),
        (["vit", "--with", "other"], "would both be onnx/model.onnx"),
        (["vit", "--with", "vit"], "vit/1 and vit/1 would both be onnx/model.onnx"),
    ],
)
def test_what_cannot_be_converted_leaves_nothing(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: list[str], said: str
) -> None:
    target = tmp_path / "new" / "out"
    told = [str(repo / part) if not part.startswith("-") else part for part in line]
    assert main(["convert", *told, "--to", str(target)]) == 1
    error = capsys.readouterr().err
    assert said in error.replace(f"{repo}/", "")
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.onnx"))
    assert not target.exists()


def test_a_folder_that_is_there_stays_as_it_is(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert main(["convert", str(repo / "vit"), "--to", str(tmp_path / "there")]) == 1
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.skipif(not NODE, reason="needs Node.js and @huggingface/transformers: make test-node")
def test_transformers_js_gets_the_same_tensors(repo: Path, converted: Path, tmp_path: Path) -> None:
    rows = _rows(2)
    (tmp_path / "rows.f32").write_bytes(rows.tobytes())
    node = shutil.which("node")
    assert node is not None
    script = Path(__file__).parent / "transformers_js.mjs"
    shape = ",".join(map(str, rows.shape))
    line = [node, str(script), NODE, str(converted), "fp32", str(tmp_path / "rows.f32"), shape, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["processor"] == "ViTImageProcessor"
    model = vitral_engine.open(repo / "vit", device="cpu")
    names = [item.name for item in model.spec.outputs]
    want = model.session_for(names, prepared=True).run(rows)
    assert set(told["outputs"]) == set(names)
    for name in names:
        got = np.frombuffer((tmp_path / f"{name}.f32").read_bytes(), np.float32)
        np.testing.assert_allclose(got.reshape(want[name].shape), want[name], rtol=1e-4, atol=1e-5)
