from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vitral_export.cli import main

SIZES = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")


def test_build_says_random_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repo = tmp_path / "models"
    line = ["build", "patch-embedding", "--name", "m", "--repo", str(repo), *SIZES]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "RANDOM WEIGHTS, SEED 0" in said
    assert f"installed {repo.resolve() / 'm' / '1'}" in said
    assert main(line) == 0
    assert "has this identity already: nothing changed" in capsys.readouterr().out


def test_verify_replays_every_setting(small_repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(small_repo / "tiny"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["replay"]
    assert {row["batch"] for row in rows} == {1, 2, 3, 7, 8, 16}
    assert {row["level"] for row in rows} == {"disabled", "basic", "extended", "all"}
    assert {row["threads"] for row in rows} == {1, 2}
    assert {row["graph"] for row in rows} == {"model.onnx", "model_uint8.onnx"}
    assert all(row["ok"] for row in rows)
    assert main(["verify", str(small_repo / "tiny" / "1")]) == 0
    table = capsys.readouterr().out
    assert "model_uint8.onnx" in table
    assert "OVER BUDGET" not in table


def test_verify_repeats_the_proof_against_the_source(
    small_repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["verify", str(small_repo / "tiny"), "--source", "patch-embedding"]
    assert main([*line, *SIZES]) == 0
    assert "agrees with patch-embedding in PyTorch" in capsys.readouterr().out
    assert main([*line, *SIZES, "--seed", "1"]) == 1
    assert "structure: model_uint8.onnx" in capsys.readouterr().err
    assert main(line) == 1
    assert capsys.readouterr().err == (
        "vitral-export: tiny has other sizes than the source: image_size 32 x 32 against 224 x 224, "
        "patch_size 8 x 8 against 16 x 16, embed_dim 16 against 768, grid 4 x 4 against 14 x 14\n"
    )


def test_verify_against_the_source_is_one_json_object(
    small_repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["verify", str(small_repo / "tiny"), "--json", "--source", "patch-embedding", *SIZES]
    assert main(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["replay", "source"]
    assert found["source"]["agreed"]
    assert {item["graph"] for item in found["source"]["figures"]} == {"model.onnx", "model_uint8.onnx"}
    assert all(item["rel_l2"] <= item["rel_l2_budget"] for item in found["source"]["figures"])
    assert main([*line, "--seed", "1"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["source"]["agreed"]
    assert found["source"]["problem"].startswith("structure: model_uint8.onnx")
    assert found["replay"]


def test_verify_fails_on_a_changed_file(
    small_repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = Path(shutil.copytree(small_repo, tmp_path / "models"))
    weights = repo / "tiny" / "1" / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    assert main(["verify", str(repo / "tiny")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "weights.bin" in said


def test_inspect_shows_spec_and_proof(small_repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(small_repo / "tiny")]) == 0
    said = capsys.readouterr().out
    for words in (
        "RANDOM WEIGHTS",
        "hf-pil",
        "proven on CPUExecutionProvider",
        "torch float32",
        "fingerprint",
    ):
        assert words in said
    assert main(["inspect", str(small_repo / "tiny"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"


def test_sources_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sources"]) == 0
    assert "patch-embedding" in capsys.readouterr().out
    assert main(["sources", "--json"]) == 0
    assert [item["name"] for item in json.loads(capsys.readouterr().out)] == [
        "patch-embedding",
        "manual-patch-embedding",
        "vit-embedding",
        "patch-embedding-2d-position",
        "position-embedding-2d",
        "vit-tiny",
        "vit-small",
        "vit-base",
        "vit-large",
        "hf:...",
        "npz:...",
        "timm:...",
        "python:...",
        "onnx:...",
    ]


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["explode"],
        ["build", "patch-embedding"],
        ["build", "patch-embedding", "--name", "m", "--seed", "many"],
        ["verify"],
    ],
)
def test_usage_errors_exit_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert "usage: vitral-export" in capsys.readouterr().err


@pytest.mark.parametrize("line", [["--help"], ["--version"], ["build", "--help"]])
def test_help_exits_0(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 0
    assert "vitral-export" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["build", "resnet", "--name", "m"], "unknown source 'resnet'"),
        (["build", "patch-embedding", "--name", "a/b"], "name 'a/b' is not possible"),
        (["build", "patch-embedding", "--name", "m", "--opset", "9"], "opset 9 is not supported"),
        (["build", "patch-embedding", "--name", "m", "--img-size", "30"], "not a multiple of patch_size 16"),
        (["build", "patch-embedding", "--name", "m", "--seed", "-1"], "seed must be from 0"),
        (["build", "patch-embedding", "--name", "m", "--embed-dim", "9" * 14], "embed_dim is 99999999999999"),
        (["build", "patch-embedding", "--name", "m", "--repo", ""], "the repository's name is empty"),
        (["build", "patch-embedding", "--name", "m", "--opset", "9", "--repo", "a/b"], "opset 9"),
        (["verify", "nowhere/m"], "no model at nowhere/m"),
        (["inspect", "nowhere/m"], "no model at nowhere/m"),
    ],
)
def test_failures_exit_1_with_one_line(
    line: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_ctrl_c_exits_130(tmp_path: Path) -> None:
    command = ["build", "patch-embedding", "--name", "m", "--repo", str(tmp_path / "models"), *SIZES]
    line = [
        sys.executable,
        "-u",
        "-c",
        f"""
import sys
from vitral_export import build, cli, commands, verify
def prove(*_):
    print("proving", flush=True)
    while True: pass
verify.prove = prove
sys.exit(cli.main({command!r}))
""",
    ]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "proving\n"
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors == "vitral-export: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_it_imports_exits_130(tmp_path: Path) -> None:
    (tmp_path / "grpc.py").write_text("print('importing', flush=True)\nwhile True: pass\n")
    line = [str(Path(sys.executable).parent / "vitral-export"), "sources"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "vitral-export: interrupted\n")


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_replay_and_inspect_need_no_torch(small_repo: Path, command: str) -> None:
    code = f"""
import sys
sys.modules["torch"] = sys.modules["onnx"] = sys.modules["transformers"] = None  # importing them fails
from vitral_export.cli import main
assert main([{command!r}, {str(small_repo / "tiny")!r}]) == 0
assert main(["build", "patch-embedding", "--name", "m"]) == 1
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "vitral-export: torch is not installed: add vitral[export]\n"


def test_a_missing_runtime_is_told_in_one_line(small_repo: Path) -> None:
    code = f"""
import sys
sys.modules["onnxruntime"] = None
from vitral_export.cli import main
assert main(["--help"]) == 0
assert main(["sources"]) == 0
assert main(["inspect", {str(small_repo / "tiny")!r}]) == 0
sys.modules["rich"] = None
assert main(["inspect", {str(small_repo / "tiny")!r}, "--json"]) == 0
assert main(["verify", {str(small_repo / "tiny")!r}]) == 1
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "exactly one of vitral[gpu], vitral[cuda], vitral[cpu]" in done.stderr
    assert done.stderr.count("\n") == 1
