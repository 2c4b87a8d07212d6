"""Models of dynamic size beside the server's own API: KServe, commands, data sets, listings, the doctor."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import kserving
import numpy as np
import pytest
from extracting import Silent, entry, pictures, wanted
from kserving import same
from serving import Running, running
from sized_module import NAME
from tritonclient.grpc import service_pb2 as pb

import vitral_engine
import vitral_extract
from vitral.errors import InvalidArgumentError
from vitral_client import cli
from vitral_doctor.models import examine
from vitral_engine.device import place
from vitral_export.cli import main as export_main
from vitral_extract.embedder import InProcess
from vitral_extract.remote import Remote
from vitral_extract.run import extract
from vitral_extract.verify import verify

RANGE = "model sized takes 8 x 8 to 64 x 64, each side a multiple of its patch's 8 x 8"


@pytest.fixture(scope="module")
def server(sized_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(sized_repo, log=tmp_path_factory.mktemp("sizes") / "server.log") as found:
        yield found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("source") / "in", 20, bad=(3,))


def batch(rows: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).standard_normal((rows, 3, height, width)).astype(np.float32)


def test_the_tensor_of_a_kserve_request_is_the_size(server: Running, sized_repo: Path) -> None:
    with kserving.client(server.address) as client:
        for rows, height, width in ((1, 32, 32), (3, 16, 48), (2, 48, 16), (2, 64, 64)):
            sent = batch(rows, height, width)
            reply = client.infer(NAME, kserving.floats(sent))
            for name, want in kserving.truth(sized_repo, sent, model=NAME).items():
                assert same(reply.as_numpy(name), want)
        told = {item.name: list(item.shape) for item in client.get_model_metadata(NAME).outputs}
        assert told == {"tokens": [-1, -1, 16], "pooled": [-1, 16]}
        assert [list(item.shape) for item in client.get_model_metadata(NAME).inputs] == [[-1, 3, -1, -1]]
        images = client.get_model_metadata(f"{NAME}_image")
        assert {item.name: list(item.shape) for item in images.outputs} == {
            "tokens": [-1, 17, 16],
            "pooled": [-1, 16],
        }


@pytest.mark.parametrize("outputs", [[], ["pooled"]])
def test_a_kserve_tensor_of_another_size_is_refused(server: Running, outputs: list[str]) -> None:
    with kserving.stub(server.address) as stub:
        for height, width in ((20, 32), (72, 8)):
            request = kserving.message(batch(1, height, width), model_name=NAME, outputs=outputs)
            code, words = kserving.refusal(stub.ModelInfer, request)
            assert code == "INVALID_ARGUMENT"
            assert f"size {height} x {width} was asked for, but {RANGE}" in words
        request = pb.ModelInferRequest(model_name=NAME)
        request.inputs.add(name="pixel_values", datatype="FP32", shape=(1, 1, 32, 32))
        request.raw_input_contents.append(bytes(4 * 32 * 32))
        assert "Expected [-1,3,-1,-1], got [1,1,32,32]" in kserving.refusal(stub.ModelInfer, request)[1]


def test_the_command_takes_a_size(
    server: Running, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRAL_SERVER", server.address)
    file = str(source / "00000.jpg")
    assert cli.main(["embed", file, "--size", "16x48", "--json"]) == 0
    [image] = json.loads(capsys.readouterr().out)["images"]
    assert image["grid"] == [2, 6]
    assert image["outputs"]["tokens"]["shape"] == [13, 16]
    assert cli.main(["embed", file, "--size", "20x32"]) == 1
    assert f"size 20 x 32 was asked for, but {RANGE}" in capsys.readouterr().err
    for wrong in ("16", "16x", "x16", "16x48x3", "ax8", "0x8", "16x-8", "1x99999999999", "²x8"):
        assert cli.main(["embed", file, "--size", wrong]) == 2
        assert "is not HEIGHTxWIDTH in pixels, 224x224 say" in capsys.readouterr().err
    assert cli.main(["models"]) == 0
    assert "32 x 32, from 8 x 8 to 64 x 64 in steps of 8 x 8" in " ".join(capsys.readouterr().out.split())


def test_the_page_shows_what_works(server: Running, source: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "image-sizes.md").read_text()
    [shown] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shutil.copy(source / "00000.jpg", tmp_path / "photo.jpg")
    with contextlib.chdir(tmp_path):
        exec(shown.replace("127.0.0.1:50051", server.address), {})  # noqa: S102


def test_inspect_says_the_range(sized_repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_main(["inspect", str(sized_repo / NAME)]) == 0
    assert "32 x 32, from 8 x 8 to 64 x 64 in steps of 8 x 8, 3 channels" in capsys.readouterr().out


def test_the_doctor_opens_and_times_it(sized_repo: Path) -> None:
    [found] = examine(sized_repo, (), place("cpu"), threads=1, until=float("inf"))
    assert found.faults == ()
    assert [speed.batch for speed in found.speeds] == [1, 8]


def test_a_data_set_of_a_size_says_so(
    server: Running, sized_repo: Path, source: Path, tmp_path: Path
) -> None:
    wish = wanted(source, views=("patches", "cls"), dtype="float32")
    size, model = (16, 48), sized_repo / NAME
    with closing(InProcess(model, device="cpu", workers=2, size=size)) as embedder:
        made = extract(tmp_path / "here", wish, embedder, Silent()).manifest
        assert verify(tmp_path / "here", embedder, sample=5) == []
    assert made["grid"] == [2, 6]
    assert json.loads((tmp_path / "here" / "manifest.json").read_text())["size"] == [16, 48]
    assert [item["shape"] for item in made["outputs"]] == [[12, 16], [16]]
    data = vitral_extract.open(tmp_path / "here")
    engine = vitral_engine.open(model, device="cpu")
    [one] = engine.embed([source / "00000.jpg"], size=size)
    np.testing.assert_allclose(data["00000.jpg"]["tokens.patches"], one.patches, rtol=0, atol=1e-5)
    with closing(Remote(server.address, model=None, timeout=30.0, size=size)) as embedder:
        there = extract(tmp_path / "there", wish, embedder, Silent()).manifest
    for key in ("size", "grid", "outputs", "fingerprint", "rows", "prefix_tokens"):
        assert there[key] == made[key]
    with (
        closing(InProcess(model, device="cpu", workers=1)) as embedder,
        pytest.raises(InvalidArgumentError, match="holds a run whose size is 16, 48, this one's is 32, 32"),
    ):
        extract(tmp_path / "here", wish, embedder, Silent())
    with pytest.raises(InvalidArgumentError, match=f"size 20 x 32 was asked for, but {RANGE}"):
        InProcess(model, device="cpu", workers=1, size=(20, 32))


def test_extract_takes_a_size_and_verifies_with_the_same(
    sized_repo: Path,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(entry(tmp_path / "entry")))
    here = ["--model", str(sized_repo / NAME), "--device", "cpu"]
    out = str(tmp_path / "out")
    assert cli.main(["extract", str(source), "--out", out, "--size", "48x16", *here]) == 0
    assert cli.main(["extract", "verify", out, *here, "--sample", "4"]) == 0
    assert "19 rows whole; 4 embedded again" in capsys.readouterr().out
    assert vitral_extract.open(out).manifest["grid"] == [6, 2]
