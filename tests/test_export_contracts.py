"""Contracts from the command line to the reply: what is written, proven, said and served of each."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import pytest

import vitral_engine
import vitral_view
from vitral.errors import InvalidArgumentError
from vitral.v1 import tensor_pb2
from vitral_engine import image
from vitral_engine.artifact import open_artifact
from vitral_engine.engine import Model
from vitral_engine.preprocess import CONTRACTS, Preprocessor
from vitral_export import contract as contracts
from vitral_export import preprocessor_config
from vitral_export.cli import main
from vitral_export.preprocessing import choose, default
from vitral_export.raw_config import raw_scale

SIZES = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")
FLOATS = {"google-tf": "it resizes in float32", "hf-dinov3": "it rescales before it resizes, in float32"}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for each contract that resizes in float32, by the contract's name; `log` is beside it."""
    folder = tmp_path_factory.mktemp("contracts")
    handler = logging.FileHandler(folder / "log")
    logger = logging.getLogger("vitral_export")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    for name in FLOATS:
        command = ["build", "patch-embedding", "--name", name, "--repo", str(folder / "models")]
        assert main([*command, *SIZES, "--preprocessing", name]) == 0
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    handler.close()
    return folder / "models"


@pytest.fixture(params=list(FLOATS))
def model(request: pytest.FixtureRequest, repo: Path) -> Iterator[Model]:
    with closing(vitral_engine.open(repo / request.param, device="cpu")) as opened:
        yield opened


def test_every_contract_has_a_promise() -> None:
    assert {*CONTRACTS, contracts.RAW} == set(contracts.BOUNDS)
    assert {name for name in CONTRACTS if CONTRACTS[name].levels is not None} == set(FLOATS)
    assert {*FLOATS, contracts.RAW} == set(contracts.IN_FLOAT)


@pytest.mark.parametrize("name", FLOATS)
def test_no_uint8_graph_and_why(name: str, repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = open_artifact(repo / name).folder
    assert not (folder / "model_uint8.onnx").exists()
    assert main(["inspect", str(repo / name)]) == 0
    why = f"pixels of contract {name} are not uint8: {FLOATS[name]}"
    assert why in capsys.readouterr().out
    lines = (repo.parent / "log").read_text().splitlines()
    assert lines.count(f"PatchEmbedding has no uint8 graph: {why}") == 1


def test_the_golden_photograph_is_hashed_as_it_comes_out_of_the_resize(model: Model) -> None:
    spec = model.spec
    assert model.replayed.pixels_equal
    data = (model.artifact.folder / spec.proof.photograph.file).read_bytes()
    pixels = Preprocessor(spec.preprocessing).resize(image.open_rgb(data))
    assert pixels.dtype == np.float32
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == spec.proof.photograph.pixels_sha256


def test_other_pixels_are_noticed(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitral_engine import float_resize

    right = float_resize._mixed
    monkeypatch.setattr(float_resize, "_mixed", lambda *given: np.nextafter(right(*given), np.float32(1e9)))
    with closing(vitral_engine.open(repo / "google-tf", device="cpu")) as opened:
        assert not opened.replayed.pixels_equal
        assert "Pillow" in opened.replayed.pixels_note


def test_pictures_and_pixels_give_what_the_contract_gives(model: Model) -> None:
    data = photographs.COFFEE.read_bytes()
    ours = Preprocessor(model.spec.preprocessing)
    row = ours.normalise(ours.resize(image.open_rgb(data)))
    (expected,) = model.session_for(["patch_embeddings"], prepared=True).run(row[None]).values()
    for item in (data, image.decode(data)):
        np.testing.assert_allclose(model.embed([item])[0].patches, expected[0], rtol=0, atol=2e-5)


def test_fast_decoding_leaves_alone_what_is_resized_in_float(model: Model) -> None:
    data = photographs.RETINA.read_bytes()
    with closing(vitral_engine.open(model.artifact.folder, device="cpu", decode="fast")) as opened:
        assert np.array_equal(opened.embed([data])[0].patches, model.embed([data])[0].patches)


def test_files_of_transformers_are_written_where_a_class_does_the_same(model: Model) -> None:
    file = model.artifact.folder / preprocessor_config.FILE
    assert file.exists() == model.spec.preprocessing.contract.startswith("hf-")
    if file.exists():
        assert preprocessor_config.read(file) == model.spec.preprocessing


def test_figures_are_drawn_of_the_nearest_bytes(repo: Path) -> None:
    for name in FLOATS:
        scene = vitral_view.read(repo / name, photographs.CHELSEA)
        assert scene.pixels.dtype == np.uint8
        assert scene.pixels.shape == (32, 32, 3)
        with closing(vitral_engine.open(repo / name, device="cpu")) as opened:
            [served] = opened.embed([photographs.CHELSEA])
        np.testing.assert_allclose(scene.tokens, served.patches, rtol=0, atol=2e-5)


def test_google_tf_has_numbers_of_its_own(tmp_path: Path) -> None:
    size = tensor_pb2.ImageSize(height=32, width=32)
    file = tmp_path / "own.json"
    crop = {"do_center_crop": True, "crop_size": 32, "size": {"shortest_edge": 41}}
    file.write_text(json.dumps({**crop, "image_mean": 0.1}))
    for choice in ("google-tf", f"google-tf:{file}"):
        assert choose(choice, own=default(32), size=size) == contracts.google_tf(32, 32)
    with pytest.raises(InvalidArgumentError, match="preprocessing gives 32 x 32, the module takes 48 x 48"):
        choose("google-tf", own=default(32), size=tensor_pb2.ImageSize(height=48, width=48))


def test_raw_values_are_a_choice_for_any_number_of_channels(tmp_path: Path) -> None:
    size = tensor_pb2.ImageSize(height=32, width=48)
    file = tmp_path / "own.json"
    file.write_text('{"scale": 0.5, "offset": [1, 2, 3]}')
    told = choose(f"raw-scale:{file}", own=default(32), size=size, channels=3)
    assert told == raw_scale(scale=[0.5] * 3, offset=(1, 2, 3), channels=3, size=size)
    four = raw_scale(scale=2, channels=4, size=size)
    assert (list(four.scale), list(four.offset), four.size) == ([2.0] * 4, [0.0] * 4, size)
    assert choose(four, own=None, size=size, channels=4) == four
    with pytest.raises(InvalidArgumentError, match="preprocessing has 4 scales, the module has 5 channels"):
        choose(four, own=None, size=size, channels=5)
    with pytest.raises(InvalidArgumentError, match="preprocessing gives 32 x 48, the module takes 48 x 32"):
        choose(four, own=None, size=tensor_pb2.ImageSize(height=48, width=32), channels=4)


def test_a_contract_that_cannot_hold_the_sources_numbers_is_refused() -> None:
    own: Any = default(32)
    own.rescale_factor = 1 / 127.5
    size = tensor_pb2.ImageSize(height=32, width=32)
    with pytest.raises(InvalidArgumentError, match=r"factor 0\.00392157, not 0\.00784314"):
        choose("timm", own=own, size=size)
    with pytest.raises(InvalidArgumentError, match=r"is auto, hf-pil, .*, none, .*not 'hf-jax'"):
        choose("hf-jax", own=default(32), size=size)
