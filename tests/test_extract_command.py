"""`vitral extract` as it is typed: what is said, exit codes, one run a folder, interrupts, a terminal."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from extracting import TINY, entry, environ, finished, hashes, pictures, start
from PIL import Image

import vitral_extract
from vitral_client import cli
from vitral_extract import shard

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


def waiting(path: Path, tiny: Path, out: Path) -> subprocess.Popen[str]:
    """A run that holds its folder and waits for names on standard input."""
    process = start(path, "-", "--out", out, "--model", tiny, *TINY, stdin=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (out / ".lock").exists() and (out / ".lock").read_text().strip() == str(process.pid):
            return process
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def test_two_runs_into_one_folder_and_a_lock_of_the_dead(
    path: Path, tiny: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    process = waiting(path, tiny, out)
    second = (source, "--out", out, "--model", tiny, "--quiet")
    said = failure(capsys, *second)
    assert said == f"{out} is being written by another run, process {process.pid}"
    assert process.poll() is None
    process.kill()
    finished(process)
    assert (out / ".lock").read_text().strip() == str(process.pid)

    assert main(*second) == 0
    assert (out / ".lock").read_text() == ""


def test_names_on_standard_input_are_extracted(path: Path, tiny: Path, source: Path, tmp_path: Path) -> None:
    process = waiting(path, tiny, tmp_path / "out")
    _, said = process.communicate("".join(f"{name}\n" for name in sorted(source.iterdir())), timeout=120)

    assert process.returncode == 0, said
    assert len(vitral_extract.open(tmp_path / "out")) == 37


@pytest.fixture
def slow(tmp_path: Path, small_repo: Path) -> tuple[Path, list[str | Path]]:
    """A source that takes some seconds, and the arguments of its run."""
    folder = pictures(tmp_path / "in", 4)
    big = tmp_path / "big.png"
    Image.effect_noise((1000, 1000), 90).convert("RGB").save(big)
    for number in range(4, 64):
        os.link(big, folder / f"{number:05}.png")
    return folder, ["--model", small_repo / "tiny", "--shard-rows", "4", "--batch", "1", "--workers", "2"]


def test_an_interrupt_leaves_a_run_that_goes_on(
    path: Path, slow: tuple[Path, list[str | Path]], tmp_path: Path
) -> None:
    folder, arguments = slow
    out = tmp_path / "out"
    process = start(path, folder, "--out", out, *arguments, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (out / "commits" / "000001.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    code, _, said = finished(process)

    assert code == 130, said
    assert time.monotonic() - begun < 10
    assert said.splitlines()[-1] == f"vitral: interrupted; the same command goes on with {out}"
    assert "Traceback" not in said
    done = len(shard.committed(out))
    assert 2 <= done < 16
    assert not [*out.rglob(".aside-*")]
    code, told, said = finished(
        start(path, folder, "--out", out, *arguments, "--json", stdout=subprocess.PIPE)
    )
    assert code == 0, said
    assert json.loads(told)["embedded_now"] == 64 - 4 * done
    code, _, said = finished(start(path, folder, "--out", tmp_path / "whole", *arguments))
    assert code == 0, said
    assert hashes(out) == hashes(tmp_path / "whole")


def on_a_terminal(path: Path, *arguments: str | Path) -> tuple[int, str]:
    """Exit code, and all that a terminal of 160 columns was sent."""
    ours, theirs = pty.openpty()
    found: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                found.append(data)
        except OSError:
            pass  # the other end is closed

    thread = threading.Thread(target=read)
    thread.start()
    line = [sys.executable, "-m", "vitral_client", "extract", *map(str, arguments)]
    where = {**environ(path), "TERM": "xterm-256color", "COLUMNS": "160"}
    done = subprocess.run(line, env=where, stdout=subprocess.DEVNULL, stderr=theirs, timeout=120, check=False)
    os.close(theirs)
    thread.join(10)
    os.close(ours)
    return done.returncode, b"".join(found).decode()


def test_a_terminal_shows_one_line_that_moves(
    path: Path, slow: tuple[Path, list[str | Path]], tmp_path: Path
) -> None:
    folder, arguments = slow
    code, seen = on_a_terminal(path, folder, "--out", tmp_path / "out", *arguments)

    assert code == 0
    assert "/64 images" in seen
    for word in ("/s now", "/s mean", " left", " written", "0 errors", "decode "):
        assert word in seen
    assert "\x1b[2K" in seen  # the line is drawn over itself


def test_plain_lines_where_there_is_no_terminal(
    path: Path, slow: tuple[Path, list[str | Path]], tmp_path: Path
) -> None:
    script = tmp_path / "often.py"
    script.write_text(
        "import sys\nfrom vitral_extract import progress\nfrom vitral_client.__main__ import main\n"
        "progress._PLAIN_EVERY = 0.1\nsys.exit(main(sys.argv[1:]))\n"
    )
    folder, arguments = slow
    line = [sys.executable, script, "extract", folder, "--out", tmp_path / "out", *arguments]
    done = subprocess.run(line, env=environ(path), capture_output=True, text=True, timeout=120, check=True)

    lines = [line for line in done.stderr.splitlines() if "/64 images" in line]
    assert len(lines) >= 2
    assert all(" left  " in line and " errors" in line for line in lines)
    assert "\x1b" not in done.stderr
