"""`vitral extract` as it is typed: what is said, and exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from extracting import entry, pictures

from vitral_client import cli

BAD = (3, 17, 39)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that brings the command."""
    return entry(tmp_path_factory.mktemp("entry") / "path")


@pytest.fixture(autouse=True)
def on_the_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(path))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("source") / "in", 40, bad=BAD)


@pytest.fixture(scope="module")
def tiny(small_repo: Path) -> Path:
    return small_repo / "tiny"


def main(*arguments: str | Path) -> int:
    return cli.main(["extract", *map(str, arguments)])


def failure(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a run that failed."""
    assert main(*arguments) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "never trained" not in line]
    return line.removeprefix("vitral: ")


def test_a_run_what_is_said_and_what_is_there(
    tiny: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(source, "--out", out, "--model", tiny, "--device", "cpu") == 0
    printed = capsys.readouterr()
    first, times, why = printed.out.splitlines()
    assert first.startswith(f"{out}: 37 rows and 3 errors of 40 pictures, ")
    assert first.endswith(" images/s")
    assert times.startswith("time of the workers: ")
    assert "bottleneck: " in times
    assert why == f"why they failed stands in {out / 'errors.parquet'}; --retry-failed tries them again"
    assert printed.err == "vitral: model tiny has random weights, seed 0: it was never trained\n"

    assert main("verify", out, "--model", tiny) == 0
    assert capsys.readouterr().out == f"{out}: 37 rows whole; 32 embedded again\n"
    assert main("info", out) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert {"model": "tiny", "rows": "37", "errors": "3", "dtype": "float16"}.items() <= lines.items()
    assert main("info", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["provider"] == "CPUExecutionProvider"


def test_json_says_the_numbers(
    tiny: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (source, "--out", tmp_path / "out", "--model", tiny, "--json")
    assert main(*arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["count"], told["rows"], told["errors"], told["embedded_now"]) == (40, 37, 3, 40)
    assert told["images_per_second"] > 0
    assert told["stages"][told["bottleneck"]] == max(told["stages"].values())
    assert {"read", "decode", "preprocess", "run", "cast", "write", "wait"} <= set(told["stages"])
    assert main(*arguments) == 0
    assert json.loads(capsys.readouterr().out)["embedded_now"] == 0
    assert main("verify", tmp_path / "out", "--model", tiny, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 37, "embedded_again": 32, "problems": []}


def test_quiet_says_nothing_but_errors(
    tiny: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(source, "--out", tmp_path / "out", "--model", tiny, "--quiet") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "never trained" in printed.err
    assert "no file or folder" in failure(capsys, "no", "--out", tmp_path / "b", "--model", tiny, "--quiet")


def test_a_dry_run_writes_nothing(
    tiny: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = (source, "--out", out, "--model", tiny, "--dry-run", "--views", "patches,mean")
    assert main(*arguments) == 0
    first, patches, mean, disk = capsys.readouterr().out.splitlines()
    assert first == f"would make {out}: 40 of 40 pictures"
    assert patches == "  patch_embeddings.patches: 16 x 16 float16 a picture"
    assert mean == "  patch_embeddings.mean: 16 float16 a picture"
    assert disk.endswith(" free")
    assert main(*arguments, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pictures"], told["count"], told["resumed"]) == (40, 40, False)
    assert 40 * 544 < told["bytes"] < 40 * 1000
    assert not out.exists()


def test_mistakes_are_one_line(
    tiny: Path,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "out")
    model = ("--model", tiny)
    assert failure(capsys, source, *model) == "name the folder of the data set with --out"
    assert failure(capsys, source, *out) == "name the model with --model; models holds none"
    assert "no model at" in failure(capsys, source, *out, "--model", "absent")
    assert "the sources hold no picture" in failure(capsys, "empty", *out, *model)
    assert "the sources hold no picture" in failure(capsys, "empty", *out, *model, "--dry-run")
    assert "has no output 'x'; it has patch_embeddings" in failure(
        capsys, source, *out, *model, "--outputs", "x"
    )
    assert "unknown view 'x'" in failure(capsys, source, *out, *model, "--views", "x")
    assert "has no CLS token" in failure(capsys, source, *out, *model, "--views", "cls")
    assert "named twice" in failure(capsys, source, *out, *model, "--views", "mean,mean")
    assert "holds no finished data set" in failure(capsys, "verify", "empty")
    assert "verify takes one DIR, not 2" in failure(capsys, "verify", "a", "b")
    assert "3 of 40 pictures failed, 2 may" in failure(capsys, source, *out, *model, "--max-errors", "5%")
    assert "1 of 40 pictures failed, 0 may" in failure(
        capsys, source, "--out", tmp_path / "b", *model, "--on-error", "fail", "--workers", "1"
    )
    for wrong in ("--max-errors=x", "--max-errors=1.5", "--max-errors=-1", "--batch=0", "--dtype=int8"):
        assert main(source, *out, *model, wrong) == 2


def test_a_model_that_takes_tokens_is_refused(
    preset_repo: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = preset_repo / "position-embedding-2d"
    said = failure(capsys, source, "--out", tmp_path / "out", "--model", model)
    assert said == "model position-embedding-2d has no preprocessing: it takes no pictures"
    assert not (tmp_path / "out").exists()


def test_the_only_model_of_the_folder_is_taken_and_verify_finds_it(
    tiny: Path,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, "models/tiny")
    assert main(source, "--out", "out", "--quiet") == 0
    assert main("verify", "out", "--sample", "5") == 0
    assert capsys.readouterr().out == "out: 37 rows whole; 5 embedded again\n"
    shutil.rmtree("models")
    assert main("verify", "out") == 0
    assert capsys.readouterr().out.endswith("none embedded again: name the model with --model\n")
    data = tmp_path / "out" / "data" / "000000.safetensors"
    data.write_bytes(data.read_bytes()[:-1] + b"\x77")
    assert (
        failure(capsys, "verify", "out")
        == "out: 000000.safetensors is not what was written: its hash differs"
    )
