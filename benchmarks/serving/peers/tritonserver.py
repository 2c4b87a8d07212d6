"""The tritonserver of the package nvidia-pytriton, without pytriton itself.

It has Triton's core and Python backend; a backend written for the latter stands in for onnxruntime's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.serving.peers import venv
from benchmarks.serving.peers.process import free_port, started
from benchmarks.serving.way import Running

_HERE = Path(__file__).parent


def missing() -> str:
    """What has to be done before it can be started; empty when it can."""
    return venv.missing("pytriton")


@contextmanager
def running(models: Path, *options: str) -> Iterator[Running]:
    """Serves a repository unchanged, ready with all its models; ended on exit.

    Args:
        models: of the backends `python` and `onnxruntime`.
        options: of its command line, beside addresses and folders.

    Raises:
        SystemExit: it ended, as it does when a model fails to load, or was not ready in time.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        address = f"127.0.0.1:{free_port()}"
        command = [*_command(models, _backends(folder / "backends"), address), *options]
        with channel(address) as client:

            def ready() -> bool:
                with contextlib.suppress(Exception):  # nobody listens yet
                    return bool(client.is_server_ready())
                return False

            with started(command, ready=ready, log=folder / "log", environ=_environ()) as pids:
                yield Running(address, pids)


@contextmanager
def channel(address: str) -> Iterator[Any]:
    """The client of tritonclient, closed on exit."""
    import tritonclient.grpc as triton

    with contextlib.closing(triton.InferenceServerClient(address)) as client:
        yield client


def _home() -> Path:
    return venv.site_packages() / "pytriton" / "tritonserver"


def _command(models: Path, backends: Path, address: str) -> list[str]:
    host, port = address.split(":")
    options = {
        "model-repository": models,
        "backend-directory": backends,
        "grpc-address": host,
        "grpc-port": port,
        "allow-http": "false",
        "allow-metrics": "false",
        "exit-timeout-secs": 5,
    }
    return [str(_home() / "bin" / "tritonserver"), *(f"--{name}={value}" for name, value in options.items())]


def _backends(folder: Path) -> Path:
    """Its Python backend, and one that is named onnxruntime: Triton finds a backend by its folder's name."""
    own = folder / "onnxruntime"
    own.mkdir(parents=True)
    shutil.copyfile(_HERE / "onnxruntime_backend.py", own / "model.py")
    python = _home() / "backends" / "python"
    _place_stub(python)
    (folder / python.name).symlink_to(python)
    return folder


def _place_stub(python: Path) -> None:
    """The stub process of this Python, where the backend looks for it; pytriton copies it there too."""
    stub = python / "triton_python_backend_stub"
    with contextlib.suppress(FileExistsError):
        stub.symlink_to(Path("..", "..", "python_backend_stubs", venv.version(), stub.name))


def _environ() -> dict[str, str]:
    """The stub finds packages by the first Python on PATH, whatever PYTHONPATH says, and links libpython."""
    libraries = [venv.library_folder(), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        "PATH": os.pathsep.join((str(venv.PYTHON.parent), os.environ.get("PATH", os.defpath))),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }
