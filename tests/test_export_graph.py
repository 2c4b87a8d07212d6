from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

from vitral import spec as specs
from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral_engine.artifact import open_artifact
from vitral_export.build import build
from vitral_export.fold import fold, folded_weights
from vitral_export.preprocessing import default
from vitral_export.sources import Options, load

FILES = {
    "embedding.safetensors",
    "golden.safetensors",
    "manifest.json",
    "model.onnx",
    "model_uint8.onnx",
    "photograph.jpg",
    "preprocessor_config.json",
    "report.html",
    "verification.json",
    "weights.bin",
}
SMALL = Options(img_size=32, patch_size=8, embed_dim=16)
COMMAND = (
    "build",
    "patch-embedding",
    "--name",
    "m",
    "--img-size",
    "32",
    "--patch-size",
    "8",
    "--embed-dim",
    "16",
)


def test_a_version_folder_holds_what_the_contract_lists(small_repo: Path) -> None:
    artifact = open_artifact(small_repo / "tiny")
    assert {path.name for path in artifact.folder.iterdir()} == FILES
    assert set(artifact.spec.sha256) == FILES - {"manifest.json"}
    assert specs.identity(artifact.spec, artifact.spec.sha256) == artifact.spec.fingerprint
    assert len({path.stat().st_mode for path in artifact.folder.iterdir()}) == 1


@pytest.mark.parametrize("file", ["model.onnx", "model_uint8.onnx"])
def test_graphs_are_readable_and_leak_nothing(small_repo: Path, file: str) -> None:
    path = small_repo / "tiny" / "1" / file
    model = onnx.load(path, load_external_data=False)
    assert b"/" + b"site-packages" not in path.read_bytes()
    assert str(Path.cwd()).encode() not in path.read_bytes()
    places = [model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info]
    assert not any(place.metadata_props for place in places[1:])
    assert not any(place.doc_string for place in places)
    assert {item.key.partition(".")[0] for item in model.metadata_props} == {"vitral", "Image"}
    assert "projection/Conv" in [node.name for node in model.graph.node]
    weights = [item for item in model.graph.initializer if item.name.startswith("projection")]
    assert len(weights) == 2
    for item in weights:
        told = {entry.key: entry.value for entry in item.external_data}
        assert told["location"] == "weights.bin"
        assert int(told["offset"]) % 4096 == 0


def test_the_batch_is_dynamic_on_both_sides(small_repo: Path) -> None:
    graph = onnx.load(small_repo / "tiny" / "1" / "model_uint8.onnx", load_external_data=False).graph
    pixels, tokens = (item[0].type.tensor_type.shape.dim for item in (graph.input, graph.output))
    assert [item.dim_param or item.dim_value for item in pixels] == ["batch", 32, 32, 3]
    assert [item.dim_param or item.dim_value for item in tokens] == ["batch", 16, 16]


@pytest.mark.parametrize("opset", [18, 23])
def test_other_opsets(tmp_path: Path, opset: int) -> None:
    done = build(load("patch-embedding", SMALL), name="m", repo=tmp_path, opset=opset)
    model = onnx.load(done.path / "model.onnx", load_external_data=False)
    assert [item.version for item in model.opset_import] == [opset]
    assert done.spec.opset == opset


@pytest.mark.parametrize("opset", [17, 24])
def test_opsets_outside_the_range_are_refused(tmp_path: Path, opset: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"opset {opset} is not supported; 18 to 23 are"):
        build(load("patch-embedding", SMALL), name="m", repo=tmp_path, opset=opset)


def test_one_patch_per_image(tmp_path: Path) -> None:
    done = build(
        load("patch-embedding", Options(img_size=8, patch_size=8, embed_dim=1)), name="m", repo=tmp_path
    )
    assert list(specs.item_shape(done.spec.outputs[0].axes)) == [1, 1]


def test_an_export_repeats_to_the_byte_in_another_folder(tmp_path: Path) -> None:
    folders = []
    for name in ("one", "another-place"):
        place = tmp_path / name
        place.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": str(len(name))}
        command = [sys.executable, "-m", "vitral_export", *COMMAND]
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        folders.append(place / "models" / "m")
    first, second = folders
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == len(FILES) + 1
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_folding_is_exact_where_the_numbers_are() -> None:
    random = np.random.default_rng(0)
    weight = random.integers(-512, 512, (4, 3, 2, 2)).astype(np.float32) / 1024
    exact = default(2)
    exact.rescale_factor = 1 / 256
    folded, bias = folded_weights(weight, None, exact)
    assert np.array_equal(folded, weight / 128)  # (u / 256 - 1/2) / (1/2) = (u - 128) / 128
    assert np.array_equal(bias, np.zeros(4, np.float32))


def test_folding_weights_that_overflow_is_refused() -> None:
    weight = np.full((1, 3, 1, 1), 3e38, np.float32)
    tiny = default(1)
    tiny.std[:] = [1e-6] * 3
    with pytest.raises(InvalidArgumentError, match="overflow float32"):
        folded_weights(weight, None, tiny)


def test_padding_is_not_folded(small_repo: Path) -> None:
    model = onnx.load(small_repo / "tiny" / "1" / "model.onnx")
    pads = next(item for item in model.graph.node[0].attribute if item.name == "pads")
    pads.ints[:] = [1, 1, 1, 1]
    with pytest.raises(UnsupportedError, match="padded convolution"):
        fold(model, "pixel_values", default(32))


def test_goldens_are_two_photographs_and_noise_in_float64(small_repo: Path) -> None:
    tensors = load_file(small_repo / "tiny" / "1" / "golden.safetensors")
    shapes = {key: (array.shape, array.dtype.name) for key, array in tensors.items()}
    assert shapes == {
        "model.onnx/input": ((3, 3, 32, 32), "float32"),
        "model.onnx/patch_embeddings": ((3, 16, 16), "float64"),
        "model_uint8.onnx/input": ((3, 32, 32, 3), "uint8"),
        "model_uint8.onnx/patch_embeddings": ((3, 16, 16), "float64"),
    }
    rows = tensors["model_uint8.onnx/input"]
    assert not np.array_equal(rows[0], rows[1])
