"""Each role runs with what its extra installs and nothing more: fresh environments from a built wheel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage

import vitral_engine

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPH = Path(skimage.__file__).parent / "data" / "rocket.jpg"
HEAVY = ("torch", "onnx", "onnxscript", "transformers", "skimage", "rich")
CLIENT = """
import sys
import numpy
from vitral_client import Client

with Client(sys.argv[1]) as client:
    [photo] = client.embed([sys.argv[2]], model="tiny")
numpy.save(sys.argv[3], photo.patches)
"""


@dataclass(frozen=True)
class Venv:
    """A fresh environment."""

    folder: Path

    def install(self, requirement: str) -> None:
        pip = ["-m", "pip", "install", "-qq", "--constraint", str(ROOT / "constraints.txt"), requirement]
        done = self.python(*pip)
        assert done.returncode == 0, done.stderr

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("python", *arguments)

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.folder / "bin" / name), *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environment(), capture_output=True, text=True, check=False
        )

    def installed(self) -> set[str]:
        code = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
        return set(self.python("-c", code).stdout.split())

    def importable(self, names: tuple[str, ...]) -> list[str]:
        code = f"import importlib.util as u; print(*(n for n in {names!r} if u.find_spec(n)))"
        return self.python("-c", code).stdout.split()


@dataclass(frozen=True)
class Rooms:
    """The two environments, and what the server's said before it had a runtime, and its doctor."""

    server: Venv
    client: Venv
    without_runtime: subprocess.CompletedProcess[str]
    doctor_without_runtime: subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def new_venv(folder: Path) -> Venv:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return Venv(folder)


def build_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = folder.glob("vitral-*.whl")
    return wheel


@pytest.fixture(scope="module")
def rooms(small_repo: Path) -> Iterator[Rooms]:
    with tempfile.TemporaryDirectory() as name:
        wheel = build_wheel(Path(name) / "dist")
        server, client = new_venv(Path(name) / "server"), new_venv(Path(name) / "client")
        client.install(str(wheel))
        server.install(f"vitral[server] @ {wheel.as_uri()}")
        without = server.run("vitral-server", "--repo", str(small_repo), "--port", "0")
        doctor = server.run("vitral", "doctor", "--repo", str(small_repo))
        server.install(f"vitral[server,cpu] @ {wheel.as_uri()}")
        yield Rooms(server, client, without, doctor)


@contextmanager
def serving(venv: Venv, repo: Path) -> Iterator[str]:
    """Runs the server of an environment; gives its address, ends it and demands exit code 0."""
    command = [str(venv.folder / "bin" / "vitral-server"), "--repo", str(repo), "--port", "0"]
    with subprocess.Popen(
        command, cwd=venv.folder, env=environment(), stdout=subprocess.PIPE, text=True
    ) as server:
        watchdog = threading.Timer(120, server.kill)
        watchdog.start()
        try:
            assert server.stdout is not None
            event = json.loads(server.stdout.readline())
            assert event["event"] == "serving"
            yield event["address"]
            server.send_signal(signal.SIGTERM)
            assert server.wait() == 0
        finally:
            watchdog.cancel()
            server.kill()


def test_the_server_has_no_framework_installed(rooms: Rooms) -> None:
    assert rooms.server.importable(HEAVY) == []


def test_the_client_has_its_three_dependencies_only(rooms: Rooms) -> None:
    brought = {"pip", "setuptools", "wheel"}  # by venv itself

    assert rooms.client.installed() - brought == {
        "vitral",
        "grpcio",
        "protobuf",
        "numpy",
        "typing_extensions",
    }


def test_the_client_embeds_through_the_server(rooms: Rooms, small_repo: Path, tmp_path: Path) -> None:
    reply = tmp_path / "reply.npy"
    model = vitral_engine.open(small_repo / "tiny")
    [expected] = model.embed([PHOTOGRAPH])
    model.close()

    with serving(rooms.server, small_repo) as address:
        done = rooms.client.python("-W", "error", "-c", CLIENT, address, str(PHOTOGRAPH), str(reply))

    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(reply), expected.patches, rtol=1e-4, atol=1e-5)


def test_a_subcommand_whose_extra_is_not_installed_names_it(rooms: Rooms) -> None:
    listed = rooms.client.run("vitral", "--help")
    done = rooms.client.run("vitral", "steps", str(PHOTOGRAPH), "-o", "steps.png")

    assert "draw what a patch embedding does to a picture" in " ".join(listed.stdout.split())
    assert done.returncode == 1
    assert (
        done.stderr == "vitral: this needs matplotlib and PIL and safetensors: pip install 'vitral[view]'\n"
    )


def test_a_role_without_a_runtime_says_so_in_one_line(rooms: Rooms) -> None:
    said = rooms.without_runtime.stderr

    assert rooms.without_runtime.returncode != 0
    assert len(said.strip().splitlines()) == 1, said
    assert "vitral[cpu]" in said
    assert "vitral[gpu]" in said


def test_the_doctor_of_a_server_without_a_runtime_names_the_cure(rooms: Rooms) -> None:
    done = rooms.doctor_without_runtime
    faults = [line for line in done.stdout.splitlines() if line.startswith("FAULT")]

    assert done.returncode == 1, done.stderr
    assert faults == [
        "FAULT   no onnxruntime is installed: add exactly one of vitral[gpu], vitral[cuda], vitral[cpu]"
    ]


def test_the_doctor_needs_no_more_than_the_server_does(rooms: Rooms, small_repo: Path) -> None:
    done = rooms.server.run("vitral", "doctor", "--repo", str(small_repo), "--json")
    document = json.loads(done.stdout)

    assert done.returncode == 0, done.stdout + done.stderr
    assert document["runtime"]["wheel"].startswith("onnxruntime ")
    assert document["versions"]["missing"]["server"] == []
    assert "pyarrow" in document["versions"]["missing"]["extract"]
    assert document["models"][0]["version"] == "1"


def test_the_doctor_of_a_client_says_what_a_server_would_need(rooms: Rooms, small_repo: Path) -> None:
    done = rooms.client.run("vitral", "doctor", "--repo", str(small_repo))

    assert done.returncode == 1, done.stderr
    assert "FAULT   no onnxruntime is installed" in done.stdout
    assert "FAULT   vitral-server would not start without " in done.stdout
    assert "pip install 'vitral[server]'" in done.stdout
    assert done.stderr == ""
