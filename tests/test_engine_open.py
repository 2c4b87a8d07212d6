"""Opening an artifact: what is checked, what is refused, and what is only said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import photographs
import pytest
from PIL import Image

import vitral_engine
from vitral import spec as specs
from vitral.errors import (
    ArtifactError,
    DeviceError,
    ImageError,
    ImageErrors,
    InvalidArgumentError,
    ModelNotFoundError,
    ProofError,
)
from vitral_engine import triton
from vitral_engine.artifact import models, open_artifact, sha256_file, versions


@pytest.fixture
def repo(small_repo: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(small_repo, tmp_path / "models"))


def _edit(version: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the manifest and makes hashes and fingerprint fit again."""
    file = version / specs.MANIFEST
    data = json.loads(file.read_text())
    change(data)
    data["sha256"] = {name: sha256_file(version / name) for name in data["sha256"]}
    spec = specs.json_format.ParseDict(data, specs.pb.ModelSpec())
    data["fingerprint"] = specs.identity(spec, data["sha256"])
    file.write_text(json.dumps(data))


def test_newest_version_of_a_model_is_opened(repo: Path) -> None:
    shutil.copytree(repo / "tiny/1", repo / "tiny/10")
    shutil.copytree(repo / "tiny/1", repo / "tiny/2")
    for ignored in ("02", "3.partial", ".staging-7"):
        (repo / "tiny" / ignored).mkdir()
    assert versions(repo / "tiny") == [1, 2, 10]
    assert open_artifact(repo / "tiny").version == "10"
    assert open_artifact(repo / "tiny/2").version == "2"
    assert [path.name for path in models(repo)] == ["tiny"]


def test_every_file_of_the_contract_is_there(small_repo: Path) -> None:
    names = {path.name for path in (small_repo / "tiny/1").iterdir()}
    assert names >= {
        "model.onnx",
        "model_uint8.onnx",
        "weights.bin",
        "manifest.json",
        "golden.safetensors",
        "embedding.safetensors",
        "verification.json",
        "report.html",
        "preprocessor_config.json",
    }
    assert (small_repo / "tiny/config.pbtxt").exists()


def test_embeds_paths_bytes_and_pixels_alike(small_repo: Path) -> None:
    model = vitral_engine.open(small_repo / "tiny", device="cpu")
    data = photographs.ROCKET.read_bytes()
    pixels = np.asarray(Image.open(photographs.ROCKET))
    first, second, third = model.embed([photographs.ROCKET, data, pixels])
    assert first.patches.shape == (16, 16)
    assert first.patch_grid.shape == (4, 4, 16)
    assert np.array_equal(first.patches, second.patches)
    assert np.array_equal(first.patches, third.patches)
    assert first.model == "tiny"
    assert first.fingerprint == model.spec.fingerprint
    with pytest.raises(InvalidArgumentError, match="no CLS token"):
        _ = first.cls
    model.close()


def test_results_belong_to_the_caller(small_repo: Path) -> None:
    model = vitral_engine.open(small_repo / "tiny", device="cpu")
    first = model.embed([photographs.ROCKET])[0].patches.copy()
    kept = model.embed([photographs.ROCKET])[0]
    model.embed([photographs.RETINA] * 20)
    assert np.array_equal(kept.patches, first)


def test_float16_is_the_cast_of_float32(small_repo: Path) -> None:
    model = vitral_engine.open(small_repo / "tiny", device="cpu")
    full = model.embed([photographs.ROCKET])[0].patches
    half = model.embed([photographs.ROCKET], dtype="float16")[0].patches
    assert half.dtype == np.float16
    assert np.array_equal(half, full.astype(np.float16))


def test_bad_images_fail_alone(small_repo: Path, tmp_path: Path) -> None:
    model = vitral_engine.open(small_repo / "tiny", device="cpu")
    with pytest.raises(ImageErrors) as caught:
        model.embed([photographs.ROCKET, b"junk", tmp_path / "missing.jpg", np.zeros((4, 4), np.uint8)])
    assert {index: error.cause for index, error in caught.value.errors.items()} == {
        1: "format",
        2: "unreadable",
        3: "shape",
    }
    assert isinstance(caught.value.results[0], vitral_engine.engine.Embedding)
    assert isinstance(caught.value.results[1], ImageError)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (b"one", {}, "takes a list"),
        ([photographs.ROCKET], {"dtype": "int8"}, "unknown dtype 'int8'"),
        ([photographs.ROCKET], {"outputs": ["tokens"]}, "no output 'tokens'; it has patch_embeddings"),
    ],
)
def test_wrong_arguments_name_the_choices(
    small_repo: Path, images: Any, options: dict[str, Any], message: str
) -> None:
    model = vitral_engine.open(small_repo / "tiny", device="cpu")
    with pytest.raises(InvalidArgumentError, match=message):
        model.embed(images, **options)


def test_missing_folders_are_named(repo: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="other"):
        open_artifact(repo / "other")
    (repo / "tiny/1/manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        open_artifact(repo / "tiny")


@pytest.mark.parametrize("name", ["weights.bin", "model.onnx", "golden.safetensors", "embedding.safetensors"])
def test_a_changed_file_is_refused(repo: Path, name: str) -> None:
    file = repo / "tiny/1" / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{name} has sha256 .* it was changed"):
        vitral_engine.open(repo / "tiny", device="cpu")
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{name}, which is missing"):
        vitral_engine.open(repo / "tiny", device="cpu")


def test_a_newer_schema_is_refused_in_our_words(repo: Path) -> None:
    _edit(repo / "tiny/1", lambda data: None)
    file = repo / "tiny/1/manifest.json"
    data = json.loads(file.read_text()) | {"schema": 2, "from_the_future": 1}
    file.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="has schema 2, this vitral reads up to 1: upgrade vitral"):
        open_artifact(repo / "tiny")


def test_a_fingerprint_that_does_not_follow_is_refused(repo: Path) -> None:
    file = repo / "tiny/1/manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fingerprint": "0" * 64}))
    with pytest.raises(ArtifactError, match="fingerprint does not follow"):
        open_artifact(repo / "tiny")


def test_a_path_out_of_the_folder_is_refused(repo: Path) -> None:
    file = repo / "tiny/1/manifest.json"
    data = json.loads(file.read_text())
    data["sha256"]["../config.pbtxt"] = "0"
    file.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="not a plain file name"):
        open_artifact(repo / "tiny")


def test_other_weights_with_fitting_hashes_fail_the_replay(repo: Path) -> None:
    version = repo / "tiny/1"
    weights = np.fromfile(version / "weights.bin", np.float32)
    (weights * np.float32(1.001)).tofile(version / "weights.bin")
    _edit(version, lambda data: None)
    with pytest.raises(ProofError, match=r"does not agree with its proof .* relative L2 .* \(budget"):
        vitral_engine.open(repo / "tiny", device="cpu")


def test_nan_weights_fail_the_replay(repo: Path) -> None:
    version = repo / "tiny/1"
    weights = np.fromfile(version / "weights.bin", np.float32)
    weights[:] = np.nan
    weights.tofile(version / "weights.bin")
    _edit(version, lambda data: None)
    with pytest.raises(ProofError, match="relative L2 inf"):
        vitral_engine.open(repo / "tiny", device="cpu")


def test_a_frozen_batch_is_refused(repo: Path) -> None:
    version = repo / "tiny/1"
    model = onnx.load(version / "model.onnx", load_external_data=False)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, version / "model.onnx")
    _edit(version, lambda data: None)
    with pytest.raises(ArtifactError, match=r"pixel_values has shape \(2, .*its manifest says \(None"):
        vitral_engine.open(repo / "tiny", device="cpu")


def test_other_golden_pixels_are_said_and_do_not_stop_it(repo: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["proof"]["photograph"]["pixels_sha256"] = "0" * 64
        data["proof"]["photograph"]["libraries"] = {"pillow": "9.0.0"}

    _edit(repo / "tiny/1", change)
    model = vitral_engine.open(repo / "tiny", device="cpu")
    assert not model.replayed.pixels_equal
    assert "exported with Pillow 9.0.0, running with Pillow" in model.replayed.pixels_note


def test_replay_figures_are_within_budget(small_repo: Path) -> None:
    replayed = vitral_engine.open(small_repo / "tiny", device="cpu").replayed
    assert 0 < replayed.rel_l2 <= replayed.rel_l2_budget < 1e-5
    assert replayed.pixels_equal


def test_devices_are_what_was_asked_for(small_repo: Path) -> None:
    if any(place.provider != "CPUExecutionProvider" for place in vitral_engine.device.available()):
        assert vitral_engine.open(small_repo / "tiny", device="cuda").placement.device == "cuda:0"
    else:
        with pytest.raises(DeviceError, match=r"device cuda:0 does not work here: .*(lib\w+|CUDA)"):
            vitral_engine.open(small_repo / "tiny", device="cuda:0")
    with pytest.raises(InvalidArgumentError, match="unknown device 'tpu'"):
        vitral_engine.open(small_repo / "tiny", device="tpu")
    assert vitral_engine.open(small_repo / "tiny", device="auto").placement.device in ("cpu", "cuda:0")


def test_config_gives_limits_and_names_what_is_ignored(repo: Path) -> None:
    spec = open_artifact(repo / "tiny").spec
    file = repo / "tiny/config.pbtxt"
    extra = """
    instance_group { count: 2 kind: KIND_CPU }
    version_policy { latest { num_versions: 1 } }
    optimization { graph { level: 1 } }
    """
    text = file.read_text().replace(
        "dynamic_batching {",
        "dynamic_batching { default_queue_policy { max_queue_size: 7 } preferred_batch_size: 4",
    )
    file.write_text(text.replace("max_batch_size: 32", "max_batch_size: 5") + extra)
    limits = triton.limits(repo / "tiny", spec)
    assert (limits.max_batch_size, limits.instances, limits.max_queue) == (5, 2, 7)
    assert limits.ignored == (
        "dynamic_batching.preferred_batch_size",
        "instance_group.kind",
        "optimization.graph.level",
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("TYPE_FP32", "TYPE_FP16", "its manifest says"),
        ('name: "tiny"', 'name: "other"', "names model other"),
        ("max_batch_size: 32", "max_batch_size: 0", "max_batch_size 0"),
        ("max_batch_size: 32", "max_batch_size: many", "cannot be read"),
    ],
)
def test_a_config_that_contradicts_the_manifest_is_refused(
    repo: Path, old: str, new: str, message: str
) -> None:
    spec = open_artifact(repo / "tiny").spec
    file = repo / "tiny/config.pbtxt"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ArtifactError, match=message):
        triton.limits(repo / "tiny", spec)
