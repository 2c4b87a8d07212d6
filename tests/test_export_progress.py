"""A long export says what it is doing; a short one, and one that is told to be quiet, says nothing."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vitral_export
from vitral.errors import ProofError
from vitral_export import progress, reporters
from vitral_export.cli import main
from vitral_export.modules import PatchEmbedding
from vitral_export.progress import Stage
from vitral_export.reporters import Bars, Lines

SMALL = ["--img-size", "16", "--patch-size", "8", "--embed-dim", "4"]


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_export_tells_every_stage_and_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = PatchEmbedding(img_size=16, patch_size=8, embed_dim=4).train()
    before = {name: (value.data_ptr(), value.clone()) for name, value in module.state_dict().items()}
    told: list[Stage] = []
    vitral_export.export(module, name="m", repo=tmp_path, progress=told.append)
    over = [(stage.name, stage.of) for stage in told if stage.over]
    names = [name for name, _ in over]
    assert names[:3] == ["trace and export", "files of graphs and weights", "structure of graphs"]
    assert ("structure of graphs", 2) in over
    assert ("float64 truth of model.onnx", 16) in over
    assert ("runs of model_uint8.onnx", 8) in over
    assert names[-1] == "rehearsal"
    rows = [stage.done for stage in told if (stage.name, stage.of) == ("float64 truth of model.onnx", 16)]
    assert rows == [*range(17), 16]
    assert all(stage.seconds >= 0 for stage in told)
    for name, value in module.state_dict().items():
        pointer, values = before[name]
        assert value.data_ptr() == pointer
        assert value.dtype == torch.float32
        assert torch.equal(value, values)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_nobody_is_told_afterwards_or_from_elsewhere() -> None:
    told: list[Stage] = []
    with progress.told(told.append), pytest.raises(ProofError), progress.stage("first", 2):
        raise ProofError("no")
    assert [(stage.name, stage.over) for stage in told] == [("first", False)]
    assert list(progress.each("second", [1, 2])) == [1, 2]
    assert len(told) == 1


def test_lines_wait_until_an_export_is_long() -> None:
    out, clock = io.StringIO(), Clock()
    tell = Lines(out, after=30, clock=clock)
    tell(Stage("trace", 0, 0, 0.0, over=False))
    tell(Stage("trace", 0, 0, 12.34, over=True))
    clock.now += 29
    tell(Stage("runs", 1, 8, 1.0, over=False))
    assert out.getvalue() == ""
    clock.now += 1
    tell(Stage("runs", 2, 8, 2.0, over=False))
    assert out.getvalue() == "trace: 12.3 s\n"
    tell(Stage("runs", 8, 8, 40.0, over=True))
    assert out.getvalue() == "trace: 12.3 s\nruns (8): 40.0 s\n"


def test_the_command_says_what_takes_long_unless_told_to_be_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporters, "LONG", 0.0)
    line = ["build", "patch-embedding", "--name", "m", "--repo", str(tmp_path), *SMALL]
    assert main(line) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("trace and export: ")
    assert said[-1].startswith("rehearsal: ")
    assert all(line.endswith(" s") for line in said)
    assert main([*line, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_failure_is_one_line_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "nothing", "--name", "m", "--repo", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("vitral-export: unknown source")
    assert said.count("\n") == 1


def test_a_terminal_shows_bars_and_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    controlling, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as screen, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", screen)
        patched.setenv("TERM", "xterm")
        with reporters.on_stderr() as report:
            assert isinstance(report, Bars)
            report(Stage("trace", 0, 0, 0.0, over=False))
            report(Stage("trace", 0, 0, 1.0, over=True))
            report(Stage("runs", 3, 8, 0.5, over=False))
        os.set_blocking(controlling, False)
        said = b"".join(_read(controlling)).decode()
    os.close(controlling)
    assert "3 of 8" in said
    assert said.rstrip().endswith("\x1b[2K")  # the last line is taken away again


def _read(handle: int) -> Iterator[bytes]:
    """All that can be read now."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(handle, 1 << 16):
            yield data


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with reporters.on_stderr() as report:
        assert isinstance(report, Lines)
