"""`vitral extract` in processes of its own: one run a folder, interrupts, standard input, a terminal."""

from __future__ import annotations

import json
import os
import pty
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
