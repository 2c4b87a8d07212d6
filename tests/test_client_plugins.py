"""Subcommands that other packages bring, found by the real importlib.metadata in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from vitral_client import cli, plugins

ROOT = Path(__file__).resolve().parent.parent
MODULE = """
import argparse
from vitral_client.plugins import Command

def add(parser):
    parser.add_argument("word")

def run(args):
    print("said", args.word)
    return 7

say = Command("say a word, 100% of it", "view", ("numpy",), add, run)
greedy = Command("need much", "view", ("numpy", "no_such_package", "nor_this"), add, run)
not_one = "a string"
"""
ENTRIES = """[vitral.commands]
say = other_package:say
greedy = other_package:greedy
gone = no_such_module:command
wrong = other_package:not_one
absent = other_package:nothing
health = other_package:say
"""
LOADED = "import sys; from vitral_client import cli; cli.main(sys.argv[1:]); print(*sys.modules)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a package that brings subcommands."""
    install(tmp_path, ENTRIES)
    (tmp_path / "other_package.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(folder: Path, entries: str) -> None:
    info = folder / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)


def modules(folder: Path, *arguments: str) -> set[str]:
    """What a run of the command has imported."""
    path = os.pathsep.join([str(folder), *(part for part in sys.path if part)])
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_help_lists_them_in_one_line_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "say say a word, 100% of it" in lines
    assert any(line.startswith("embed ") for line in lines)
    assert sum(line.startswith("health ") for line in lines) == 1


def test_they_run_with_their_own_arguments_and_exit_code(folder: Path, capsys) -> None:
    assert cli.main(["say", "hello"]) == 7
    assert capsys.readouterr().out == "said hello\n"
    assert cli.main(["say"]) == 2
    assert cli.main(["say", "--help"]) == 0
    assert "Say a word, 100% of it." in capsys.readouterr().out


def test_one_whose_extra_is_missing_names_it(folder: Path, capsys) -> None:
    assert cli.main(["greedy", "x"]) == 1
    said = "vitral: this needs no_such_package and nor_this: pip install 'vitral[view]'\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone", "no_such_module:command cannot be loaded: No module named 'no_such_module'"),
        ("wrong", "other_package:not_one is no Command"),
        ("absent", "other_package:nothing cannot be loaded"),
    ],
)
def test_one_that_cannot_be_loaded_says_why_and_harms_no_other(
    folder: Path, name: str, why: str, capsys
) -> None:
    assert cli.main([name, "x", "--some", "argument"]) == 1
    told = capsys.readouterr().err
    assert why in told
    assert len(told.splitlines()) == 1
    assert cli.main(["say", "hello"]) == 7


def test_none_is_looked_for_where_none_is_meant(tmp_path: Path) -> None:
    install(tmp_path, "[vitral.commands]\nsteps = vitral_view.command:steps\n")
    without = modules(tmp_path, "health", "--server", "127.0.0.1:1")
    listed = modules(tmp_path, "--help")

    assert "vitral_view" not in without
    assert "vitral_view.command" in listed
    assert not {"matplotlib", "PIL", "safetensors", "onnxruntime", "vitral_engine"} & listed


def test_those_of_this_distribution_are_commands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entries = project["entry-points"][plugins.GROUP]

    assert "steps" in entries
    for value in entries.values():
        module, name = value.split(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, plugins.Command)
        assert command.extra in project["optional-dependencies"]
