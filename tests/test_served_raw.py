"""Models of 1, 4 or N channels: exported, proven, served in process and over both services, extracted."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import kserving
import numpy as np
import pytest
import tifffile
import tritonclient.grpc as triton
from extracting import Silent, wanted
from PIL import Image
from serving import Running, running

import vitral_engine
import vitral_extract
import vitral_view
from vitral.errors import ImageError, ImageErrors, InvalidArgumentError
from vitral.tensors import Array
from vitral_client import Client, Prepared
from vitral_engine.artifact import open_artifact
from vitral_export.cli import main
from vitral_extract.embedder import InProcess
from vitral_extract.run import extract

SCALE, OFFSET = [1e-4, 2e-4, 1e-4, 3e-5], [0.0, -0.5, 0.25, 0.0]
SIZES = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models `bands` of 4 channels and `depth` of 1."""
    folder = tmp_path_factory.mktemp("raw")
    for name, channels in (("bands", 4), ("depth", 1)):
        file = folder / f"{name}.json"
        file.write_text(json.dumps({"scale": SCALE[:channels], "offset": OFFSET[:channels]}))
        options = ("--in-channels", str(channels), "--preprocessing", f"raw-scale:{file}")
        command = ["build", "patch-embedding", "--name", name, "--repo", str(folder / "models")]
        assert main([*command, *SIZES, *options]) == 0
    return folder / "models"


@pytest.fixture(scope="module")
def server(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(repo, log=tmp_path_factory.mktemp("logs") / "server.log") as started:
        yield started


def _values(channels: int, kind: str = "uint16", seed: int = 0) -> Array:
    most = 256 if kind == "uint8" else 30_000
    found = np.random.default_rng(seed).integers(0, most, (32, 32, channels))
    return found.astype(kind)


def _row(values: Array) -> Array:
    """Values (H, W, C) times scale plus offset, (C, H, W)."""
    scale, offset = (np.array(item[: values.shape[2]], np.float32) for item in (SCALE, OFFSET))
    return np.ascontiguousarray((values.astype(np.float32) * scale + offset).transpose(2, 0, 1))


def _npy(values: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _tiff(values: Array) -> bytes:
    file = io.BytesIO()
    planes = "contig" if values.shape[2] > 1 else None
    tifffile.imwrite(file, values, photometric="minisblack", planarconfig=planes)
    return file.getvalue()


def _png(values: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values[..., 0]).save(file, "PNG")
    return file.getvalue()


def test_the_artifact_says_what_it_takes(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = open_artifact(repo / "bands").spec
    told = spec.preprocessing
    assert (told.contract, list(told.scale), list(told.offset)) == ("raw-scale", SCALE, OFFSET)
    assert [graph.file for graph in spec.graphs] == ["model.onnx"]
    assert not spec.proof.photograph.file
    names = {path.name for path in (repo / "bands" / "1").iterdir()}
    assert not names & {"preprocessor_config.json", "photograph.jpg", "model_uint8.onnx"}
    assert main(["inspect", str(repo / "bands")]) == 0
    out = capsys.readouterr().out
    assert "raw-scale, 32 x 32, x [0.0001, 0.0002, 0.0001, 3e-05], + [0.0, -0.5, 0.25, 0.0]" in out
    assert "pixels of contract raw-scale are not uint8: it takes values of any scale" in out
    page = (repo / "bands" / "1" / "report.html").read_text()
    assert "raw-scale" in page
    assert "drawn" in page
    told_of = json.loads((repo / "bands" / "1" / "verification.json").read_text())
    assert told_of["inputs"] == {"photographs": [], "kinds": ["noise", "pictures", "saturated"]}
    assert main(["verify", str(repo / "bands")]) == 0


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(("name", "channels"), [("bands", 4), ("depth", 1)])
def test_arrays_and_files_give_what_their_row_gives(
    repo: Path, server: Running, name: str, channels: int, kind: str
) -> None:
    values = _values(channels, kind)
    with Client(server.address) as client, closing(vitral_engine.open(repo / name, device="cpu")) as model:
        expected = client.embed(Prepared(_row(values)), model=name).patches
        given: list[Any] = [values, _npy(values), _tiff(values)]
        if channels == 1:
            given += [values[..., 0], *([_png(values)] if kind.startswith("uint") else [])]
        for item in given:
            np.testing.assert_array_equal(client.embed(item, model=name).patches, expected)
            np.testing.assert_array_equal(model.embed([item])[0].patches, expected)


def test_a_bad_item_fails_alone_and_names_both(server: Running) -> None:
    good, flat = _values(4), _values(3)
    holed = _values(4, "float32")
    holed[0, 0, 0] = np.nan
    photograph = io.BytesIO()
    Image.fromarray(_values(3, "uint8")).save(photograph, "JPEG")
    images = [good, flat, _values(4)[:16], holed, _npy(flat), photograph.getvalue(), good]
    with Client(server.address) as client:
        results = client.embed(images, model="bands", errors="return")
    errors = {at: one for at, one in enumerate(results) if isinstance(one, ImageError)}
    assert {at: one.cause for at, one in errors.items()} == {
        1: "shape",
        2: "shape",
        3: "not_finite",
        4: "shape",
        5: "format",
    }
    assert "values are 32 x 32 x 3 uint16; 32 x 32 x 4 of uint8, uint16, int16, float32" in str(errors[1])
    assert "16 x 32 x 4 uint16; 32 x 32 x 4 of" in str(errors[2])
    assert "NaN or Inf in 1 of 4096" in str(errors[3])
    assert "no NPY, TIFF or PNG" in str(errors[5])


def test_such_arrays_are_refused_by_models_of_rgb(small_repo: Path, tmp_path: Path) -> None:
    with running(small_repo, log=tmp_path / "log") as started, Client(started.address) as client:
        for values in (_values(4, "uint8"), _values(3), _values(3, "float32"), _values(1, "uint8")[..., 0]):
            with pytest.raises(ImageErrors, match="H x W x 3 uint8 is needed"):
                client.embed([values, _values(3, "uint8")])


def test_the_kserve_service_takes_the_same_files(repo: Path, server: Running) -> None:
    values = _values(4)
    expected = kserving.truth(repo, _row(values)[None], model="bands")["patch_embeddings"]
    with closing(triton.InferenceServerClient(server.address)) as client:
        for data in (_npy(values), _tiff(values)):
            got = client.infer("bands_image", kserving.files(data)).as_numpy("patch_embeddings")
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_a_folder_of_such_files_is_extracted(repo: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    (source / "0.npy").write_bytes(_npy(_values(4, seed=1)))
    (source / "1.tif").write_bytes(_tiff(_values(4, seed=2)))
    (source / "2.npy").write_bytes(_npy(_values(3)))
    (source / "3.jpg").write_bytes(b"no picture of this model, and not listed")
    with closing(InProcess(repo / "bands", device="cpu", workers=1)) as embedder:
        done = extract(out, wanted(source), embedder, Silent())
    assert done.manifest["rows"] == 2
    with closing(vitral_engine.open(repo / "bands", device="cpu")) as model:
        expected = model.embed([_values(4, seed=1), _values(4, seed=2)])
    rows = [arrays["patch_embeddings.patches"] for _, arrays in vitral_extract.open(out)]
    for row, one in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row, one.patches.astype(row.dtype), rtol=0, atol=1e-3)


def test_no_picture_is_drawn_of_them(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"bands takes 4 channels of values \(raw-scale\), not RGB"
    ):
        vitral_view.read(repo / "bands", tmp_path / "any.jpg")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ('{"scale": [1, 2, 3]}', (), "scale has 3 numbers, the module has 4 channels"),
        ('{"scale": 1, "offset": [0]}', (), "offset has 1 numbers, the module has 4 channels"),
        ('{"scale": "1"}', (), "scale is a number or one for each channel"),
        ('{"scale": 0}', (), "no scale of 0"),
        ('{"offset": 0}', (), "of which scale must be there"),
        ('{"scale": 1, "mean": 0}', (), "of which scale must be there"),
        ("[1]", (), "of which scale must be there"),
        ("{", (), "is not JSON"),
        (
            '{"scale": 1}',
            ("--high-depth", "scale"),
            "16-bit pictures cannot be scaled: .* values as they are",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    content: str, options: tuple[str, ...], message: str, refusal: Any, tmp_path: Path
) -> None:
    file = tmp_path / "own.json"
    file.write_text(content)
    said = refusal(
        "patch-embedding", "--in-channels", "4", *SIZES, "--preprocessing", f"raw-scale:{file}", *options
    )
    assert re.search(message, said), said


def test_the_contract_needs_its_numbers_and_images(refusal: Any, tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text('{"scale": 1}')
    four = ("--in-channels", "4", *SIZES)
    assert "raw-scale:FILE.json" in refusal("patch-embedding", *four, "--preprocessing", "raw-scale")
    assert "raw-scale:FILE.json gives any" in refusal("patch-embedding", *four, "--preprocessing", "hf-pil")
    tokens = refusal("position-embedding-2d", *SIZES, "--preprocessing", f"raw-scale:{file}")
    assert "the module takes tokens" in tokens
