"""`vitral doctor` over real repositories, the good and the damaged, and what it says to change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from vitral_client import cli
from vitral_doctor import changes, page
from vitral_doctor.examination import examine
from vitral_doctor.machine import Disk, Machine
from vitral_doctor.report import Asked, Report
from vitral_doctor.runtime import Runtime
from vitral_doctor.versions import Versions
from vitral_engine.runtime import cpu_count, require

CPU = "CPUExecutionProvider"
CALM = Machine(4, 4, 2**30, 0.0)
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture(autouse=True)
def entry(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point, also where an older vitral is installed."""
    folder = tmp_path_factory.mktemp("entry")
    metadata(folder, "vitral_doctor")
    entries = "[vitral.commands]\ndoctor = vitral_doctor.command:doctor\n"
    (folder / "vitral_doctor-1.0.dist-info" / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(str(folder))


def metadata(folder: Path, name: str) -> None:
    """What makes a distribution one that is installed."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")


@pytest.fixture(scope="module")
def report(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of the model `tiny`."""
    return examine(Asked(small_repo, out=tmp_path_factory.mktemp("out")))


@pytest.fixture
def repo(small_repo: Path, tmp_path: Path) -> Path:
    """A copy to be damaged: `tiny` with a version 2 that is the same again."""
    copy = tmp_path / "models"
    shutil.copytree(small_repo, copy)
    shutil.copytree(copy / "tiny" / "1", copy / "tiny" / "2")
    return copy


def told(capsys: pytest.CaptureFixture[str], code: int, *arguments: str | Path) -> dict[str, Any]:
    """The document of a run that must end with this exit code."""
    assert cli.main(["doctor", "--json", "--seconds", "0", *map(str, arguments)]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["serves"] is (code == 0)
    return document


def faults(document: dict[str, Any]) -> list[str]:
    return [change["text"] for change in document["changes"] if change["fault"]]


def test_a_good_repository(report: Report, small_repo: Path) -> None:
    found = report.findings
    [model] = found.models

    assert report.serves
    assert report.seconds < 60
    assert (model.name, model.version, model.provider) == ("tiny", "1", CPU)
    assert model.proven_on == (CPU,)
    assert model.rel_l2 <= model.rel_l2_budget
    assert model.pixels_equal
    assert model.random
    assert {(speed.batch, speed.threads) for speed in model.speeds} == {
        (batch, threads) for batch in (1, 8) for threads in (1, cpu_count())
    }
    assert min(speed.images_per_s for speed in model.speeds) > 1
    assert found.decoding is not None
    assert found.decoding.picture == "tiny/1/photograph.jpg"
    assert min(found.decoding.one, found.decoding.all) > 1
    assert found.disk.bytes_per_s > 0
    assert list(found.disk.folder.iterdir()) == []


def test_versions_and_providers_are_those_that_are_here(report: Report) -> None:
    found = report.findings

    assert found.versions.libraries["numpy"] == sys.modules["numpy"].__version__
    assert found.versions.missing["server"] == ()
    assert found.runtime.wheel == require()
    assert list(found.runtime.providers) == onnxruntime.get_available_providers()
    assert found.runtime.fault == ""


def test_the_page_says_what_counts(report: Report, capsys) -> None:
    page.show(report)
    shown = capsys.readouterr().out

    for words in ("random weights, seed 0", require(), "batch 8, 1 thread", "rel. L2 / budget"):
        assert words in shown
    assert "advice  model tiny has random weights, seed 0: it was never trained" in shown
    assert shown.splitlines()[-1].startswith("a server would start and serve here")


def test_the_page_without_rich_has_the_same_cells(report: Report, capsys) -> None:
    page._plain(list(page._sections(report.findings)))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]

    assert ["vitral", report.findings.versions.libraries["vitral"]] in lines
    assert any(line[:4] == ["tiny", "1", CPU, "(cpu)"] for line in lines)


def test_a_run_by_name_with_no_time_opens_and_times_nothing(small_repo: Path, capsys) -> None:
    [model] = told(capsys, 0, "--repo", small_repo, "--model", "tiny")["models"]

    assert model["version"] == "1"
    assert model["speeds"] == []


def test_no_repository_and_an_empty_one(tmp_path: Path, capsys) -> None:
    document = told(capsys, 1, "--repo", tmp_path / "none")
    assert faults(document) == [f"model repository {tmp_path / 'none'} is not a folder"]
    assert document["decoding"]["picture"] == "a drawn picture"
    assert document["decoding"]["one"] > 1

    document = told(capsys, 1, "--repo", tmp_path)
    assert faults(document) == [f"{tmp_path} holds no model: run vitral-export build first"]


def test_a_name_that_is_not_there(small_repo: Path, capsys) -> None:
    document = told(capsys, 1, "--repo", small_repo, "--model", "huge")
    assert faults(document) == [f"no model 'huge' in {small_repo}; there are tiny"]


def test_a_damaged_version_gives_way_to_the_one_before(repo: Path, capsys) -> None:
    weights = repo / "tiny" / "2" / "weights.bin"
    weights.write_bytes(b"\0" + weights.read_bytes()[1:])

    document = told(capsys, 0, "--repo", repo)
    [model] = document["models"]
    assert model["version"] == "1"
    [said] = [change["text"] for change in document["changes"] if "version 2" in change["text"]]
    assert said.startswith("model tiny version 2: weights.bin has sha256 ")
    assert "version 1 would be served instead" in said

    document = told(capsys, 1, "--repo", repo, "--model", "tiny")
    assert [said] == faults(document)


def test_nothing_but_damage(repo: Path, capsys) -> None:
    (repo / "tiny" / "1" / "manifest.json").write_text("{")
    (repo / "tiny" / "2" / "model.onnx").unlink()

    document = told(capsys, 1, "--repo", repo)
    newest, oldest = faults(document)
    assert "version 2: tiny/2/manifest.json names model.onnx, which is missing" in newest
    assert "version 1: tiny/1/manifest.json is not JSON" in oldest
    assert document["models"][0]["version"] == ""


def test_a_config_that_contradicts_the_manifest(repo: Path, capsys) -> None:
    (repo / "tiny" / "config.pbtxt").write_text("max_batch_size: -1")
    [newest, oldest] = faults(told(capsys, 1, "--repo", repo))
    assert "max_batch_size" in newest
    assert "max_batch_size" in oldest


@pytest.mark.skipif(not HAS_CUDA, reason="onnxruntime-gpu is not installed")
def test_cuda_where_there_is_none(small_repo: Path, capsys) -> None:
    document = told(capsys, 0, "--repo", small_repo)
    if not document["runtime"]["cuda_fault"]:
        pytest.skip("CUDA works here")
    [fault] = faults(told(capsys, 1, "--repo", small_repo, "--device", "cuda"))
    assert fault.startswith(f"device cuda does not work here: {document['runtime']['cuda_fault']}")


def test_an_unknown_device_is_told_in_one_line(small_repo: Path, capsys) -> None:
    assert cli.main(["doctor", "--repo", str(small_repo), "--device", "tpu"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == "vitral: unknown device 'tpu'; known are auto, cpu, cuda, cuda:N, tensorrt, tensorrt:N"


def test_the_environment_of_the_server_is_the_doctors(small_repo: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("VITRAL_REPO", str(small_repo))
    monkeypatch.setenv("VITRAL_MODEL", "tiny, huge")
    assert faults(told(capsys, 1)) == [f"no model 'huge' in {small_repo}; there are tiny"]


def test_two_runtimes(small_repo: Path, tmp_path: Path) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        metadata(tmp_path, name)
    document = subprocess_report(small_repo, tmp_path)
    [fault] = faults(document)
    assert fault.startswith("two runtimes are installed, onnxruntime 1.0 and onnxruntime-gpu 1.0")
    assert "pip uninstall onnxruntime onnxruntime-gpu, then pip install" in fault
    assert document["models"] == []


def test_half_a_runtime(small_repo: Path, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()  # what uninstalling one of two leaves of the other
    (tmp_path / "onnxruntime" / "__init__.py").write_text("from onnxruntime.capi import _pybind_state\n")
    [fault] = faults(subprocess_report(small_repo, tmp_path))
    name = require().split()[0]
    assert f"{require()} cannot be imported (No module named 'onnxruntime.capi')" in fault
    assert fault.endswith(f"pip install --force-reinstall --no-deps {name}")


def subprocess_report(repo: Path, folder: Path) -> dict[str, Any]:
    """A failing run in a process that finds its packages in this folder first."""
    path = os.pathsep.join([str(folder), *(part for part in sys.path if part)])
    code = "import sys; from vitral_client import cli; sys.exit(cli.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json", "--repo", str(repo), "--seconds", "0"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def advice(report: Report, **other: Any) -> list[str]:
    """What would be said of the same machine with something else about it."""
    still = {
        "machine": CALM,
        "disk": Disk(Path(), 2**40, 1e9),
        "runtime": Runtime(require(), "", (CPU,), "none"),
    }
    found = replace(report.findings, **{**still, **other})
    return [change.text for change in changes.of(found) if "random weights" not in change.text]


def test_a_gpu_that_the_runtime_cannot_use(report: Report) -> None:
    missing = "libcudnn.so.9: cannot open shared object file"
    [said] = advice(report, runtime=Runtime("onnxruntime-gpu 1.31.1", "", (CPU,), missing, 2))
    assert said == (
        f"2 NVIDIA GPUs can be seen, but {missing}: pip install 'vitral[cuda]' brings the CUDA and cuDNN "
        "libraries"
    )
    [said] = advice(report, runtime=Runtime("onnxruntime 1.31.1", "", (CPU,), "no provider", 1))
    assert said.endswith("pip uninstall onnxruntime, then pip install 'vitral[cuda]'")
    assert advice(report, runtime=Runtime("onnxruntime 1.31.1", "", (CPU,), "x", None)) == []


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (Machine(64, 2, 2**30, 0.0), "this process may use 2 of 64 cores"),
        (Machine(4, 4, 64 * 2**20, 0.0), "/dev/shm has 64 MiB"),
        (Machine(4, 4, 2**30, 9.0), "the machine is busy, load 9.0 on 4 cores"),
    ],
)
def test_a_machine_that_is_less_than_it_looks(report: Report, machine: Machine, words: str) -> None:
    [said] = advice(report, machine=machine)
    assert said.startswith(words)


def test_a_disk_that_cannot_be_written_is_said_and_no_fault(small_repo: Path, tmp_path: Path, capsys) -> None:
    document = told(capsys, 0, "--repo", small_repo, "--out", tmp_path / "none")
    assert document["disk"]["fault"] == "No such file or directory"
    assert any(change["text"].startswith("no data set can be written to") for change in document["changes"])


def test_a_slow_or_full_disk(report: Report) -> None:
    slow, full = Disk(Path(), 2**40, 3.01e6), Disk(Path(), 2**29, 1e9)
    assert advice(report, disk=slow) == [". takes 3 MB/s, 10 pictures of ViT-B a second"]
    assert advice(report, disk=full)[0].startswith(". has 512 MiB free")


def test_a_proof_that_holds_elsewhere_and_other_pixels(report: Report) -> None:
    [model] = report.findings.models
    gpu = replace(model, provider="CUDAExecutionProvider")
    [said] = advice(report, models=(gpu,))
    assert said.startswith(f"model tiny is proven on {CPU} and would run on CUDAExecutionProvider")
    note = "exported with Pillow 12.0.0, running with Pillow 13.0.0"
    [said] = advice(report, models=(replace(model, pixels_equal=False, pixels_note=note),))
    assert note in said


def test_a_role_that_is_not_there(report: Report) -> None:
    bare = Versions(report.findings.versions.libraries, {"server": ("grpcio-reflection",)})
    [said] = advice(report, versions=bare)
    assert said == "vitral-server would not start without grpcio-reflection: pip install 'vitral[server]'"
