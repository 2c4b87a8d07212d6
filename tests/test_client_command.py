"""The `vitral` command as a process: interrupts, and output that cannot be printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from client_wire import Wire, serve

from vitral_client import __main__, cli

INTERRUPTED = """
import builtins, os, signal, sys
real = builtins.__import__
def stop(name, *rest):
    if name == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *rest)
from vitral_client.__main__ import main
builtins.__import__ = stop
sys.exit(main(["health", "--server", "127.0.0.1:1"]))
"""


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve(Wire()) as running:
        yield running


def run(*arguments: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vitral_client", *arguments]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["vitral_client.cli", "grpc", "numpy", "vitral_client.client"])
def test_an_interrupt_while_importing_is_quiet(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_command_is_this_entry() -> None:
    [script] = entry_points(group="console_scripts", name="vitral")
    assert script.value == "vitral_client.__main__:main"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda _: None)
    assert __main__.main(["models"]) == 1
    assert capsys.readouterr().err == "vitral: this needs rich: pip install 'vitral[cli]'\n"


def test_what_an_ascii_terminal_cannot_print_is_escaped(wire: Wire, tmp_path: Path) -> None:
    picture = tmp_path / "그림.jpg"
    picture.write_bytes(b"first")
    embed = ["embed", str(picture), "--server", wire.address]
    as_json, as_table = run(*embed, "--json", encoding="ascii"), run(*embed, encoding="ascii")
    saved = run(*embed, "-o", str(tmp_path / "그림.npy"), encoding="ascii")
    assert [done.returncode for done in (as_json, as_table, saved)] == [0, 0, 0], as_table.stderr
    assert json.loads(as_json.stdout)["images"][0]["image"] == "그림.jpg"
    assert "4 x 6" in as_table.stdout
    assert r"\uadf8\ub9bc.jpg" in as_table.stdout
    assert r"\uadf8\ub9bc.npy" in saved.stdout
    assert "그림.jpg" in run(*embed).stdout


def test_json_is_ascii_also_without_the_entry(wire: Wire, tmp_path: Path, capsys) -> None:
    picture = tmp_path / "그림.jpg"
    picture.write_bytes(b"first")
    assert cli.main(["embed", str(picture), "--server", wire.address, "--json"]) == 0
    assert capsys.readouterr().out.isascii()
