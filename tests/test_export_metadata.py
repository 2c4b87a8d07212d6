"""metadata_props: every graph says where it is from, what it takes, and by which rule it is proven."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx_files
import onnxruntime as ort
import pytest
import vit_checkpoints as vits
from safetensors.torch import save_file

from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import open_artifact, sha256_file
from vitral_export import onnx_metadata
from vitral_export.cli import main
from vitral_export.loaded import Options
from vitral_export.sources import load


def props(file: Path) -> dict[str, str]:
    model = onnx.load(file, load_external_data=False)
    return {item.key: item.value for item in model.metadata_props}


def test_every_graph_of_an_export_says_what_it_is(small_repo: Path) -> None:
    folder = small_repo / "tiny" / "1"
    plain, folded = (props(folder / name) for name in ("model.onnx", "model_uint8.onnx"))
    assert plain["vitral.source"] == "patch-embedding"
    assert plain["vitral.reference"].endswith("PatchEmbedding")
    assert "vitral.revision" not in plain
    told = json.loads(plain["vitral.preprocessing"])
    assert (told["contract"], told["mean"]) == ("hf-pil", [0.5, 0.5, 0.5])
    assert "3 x that of torch float32 + 2^-22" in plain["vitral.tolerances"]
    image = {"Image.BitmapPixelFormat": "Rgb8", "Image.ColorSpaceGamma": "SRGB"}
    assert image.items() <= plain.items()
    assert plain["Image.NominalPixelRange"] == "Normalized_1_1"
    assert folded == plain | {"Image.NominalPixelRange": "NominalRange_0_255"}
    for name in ("model.onnx", "model_uint8.onnx"):
        assert onnx.load(folder / name).graph.input[0].type.denotation == "IMAGE"


def test_onnxruntime_reads_it(small_repo: Path) -> None:
    session = ort.InferenceSession(small_repo / "tiny" / "1" / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map["Image.BitmapPixelFormat"] == "Rgb8"


def test_a_model_of_tokens_has_no_image_keys(preset_repo: Path) -> None:
    found = props(preset_repo / "position-embedding-2d" / "1" / "model.onnx")
    assert found["vitral.preprocessing"] == "none"
    assert not any(key.startswith("Image.") for key in found)


@pytest.mark.parametrize(
    ("rescale", "mean", "std", "word"),
    [
        (1 / 255, [0.0] * 3, [1.0] * 3, "Normalized_0_1"),
        (1.0, [0.0] * 3, [1.0] * 3, "NominalRange_0_255"),
        (1 / 127.5, [1.0] * 3, [1.0] * 3, "Normalized_1_1"),
        (0.00392156862745098, [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "Normalized_1_1"),
        (1 / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], None),
        (1 / 255, [0.5, 0.5, 0.4], [0.5, 0.5, 0.5], None),
    ],
)
def test_the_range_is_said_where_onnx_has_a_word_for_it(
    tmp_path: Path, rescale: float, mean: list[float], std: list[float], word: str | None
) -> None:
    model = onnx.load(onnx_files.by_hand(tmp_path / "m.onnx"))
    told = pb.Preprocessing(contract="hf-pil", rescale_factor=rescale, mean=mean, std=std)
    onnx_metadata.write(model, pb.Graph(), pb.Source(kind="x"), told)
    found = {item.key: item.value for item in model.metadata_props}
    assert found.get("Image.NominalPixelRange") == word


def test_weights_of_files_are_hashed(tmp_path: Path) -> None:
    made = vits.model(vits.OTHER)
    one = vits.save(tmp_path / "one", made)
    loaded = load(f"hf:{one}", Options())
    assert loaded.source.weights_sha256 == sha256_file(one / "model.safetensors")
    many = load(f"hf:{vits.save(tmp_path / 'many', made, max_shard_size='20KB')}", Options()).source
    assert len(many.weights_sha256) == 64
    assert many.weights_sha256 != loaded.source.weights_sha256
    again = load(f"hf:{vits.save(tmp_path / 'again', made, max_shard_size='20KB')}", Options()).source
    assert again.weights_sha256 == many.weights_sha256
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16}
    state = load("patch-embedding", Options(**sizes)).module.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    source = load("patch-embedding", Options(**sizes, weights=str(tmp_path / "w.safetensors"))).source
    assert source.weights_sha256 == sha256_file(tmp_path / "w.safetensors")
    assert not load("patch-embedding", Options(**sizes)).source.weights_sha256


def test_an_export_of_a_weights_file_carries_its_hash(tmp_path: Path) -> None:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16}
    file, repo = tmp_path / "w.safetensors", tmp_path / "models"
    save_file(load("patch-embedding", Options(**sizes)).module.state_dict(), file)
    given = [word for key, size in sizes.items() for word in (f"--{key.replace('_', '-')}", str(size))]
    line = ["build", "patch-embedding", "--name", "v", "--repo", str(repo), "--weights", str(file), *given]
    assert main(line) == 0
    spec = open_artifact(repo / "v").spec
    found = props(repo / "v" / "1" / "model.onnx")
    assert found["vitral.reference"] == "w.safetensors"
    assert found["vitral.weights_sha256"] == spec.source.weights_sha256 == sha256_file(file)
