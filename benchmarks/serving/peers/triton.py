"""Triton's core with its Python backend and onnxruntime inside, and tritonclient.

No package has Triton's own onnxruntime backend; what it would do better or worse is not measured here.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.peers import venv
from benchmarks.serving.peers.process import free_port, started
from benchmarks.serving.peers.triton_repository import Arrangement, write
from benchmarks.serving.way import Call, Picture, Running
from benchmarks.serving.workload import Workload

_FOUND = Arrangement()


class Triton:
    """tritonserver of the package nvidia-pytriton, without pytriton itself."""

    name = "triton"
    title = "Triton 2.51, python backend"
    python = Path(sys.executable)

    def __init__(self, arrangement: Arrangement = _FOUND) -> None:
        self._arrangement = arrangement

    def missing(self) -> str:
        """What `make bench-peers` has to install."""
        return venv.missing("pytriton")

    def serves(self, workload: Workload) -> bool:
        """All of them."""
        return True

    @contextmanager
    def start(self, repo: Path, workload: Workload) -> Iterator[Running]:
        """The server over a repository made for the workload, ready; both gone on exit."""
        with tempfile.TemporaryDirectory() as folder:
            models = Path(folder) / "models"
            write(models, repo, workload, self._arrangement)
            address = f"127.0.0.1:{free_port()}"
            with _channel(address) as client:

                def ready() -> bool:
                    with contextlib.suppress(Exception):  # nobody listens yet
                        return bool(client.is_model_ready(workload.model))
                    return False

                command, log = _command(models, address), Path(folder) / "log"
                with started(command, ready=ready, log=log, environ=_environ()) as pids:
                    yield Running(address, pids, str(self._arrangement))

    @contextmanager
    def caller(self, address: str, workload: Workload) -> Iterator[Call]:
        """One InferenceServerClient, shared by all threads."""
        import tritonclient.grpc as triton

        outputs = [triton.InferRequestedOutput("output")]
        with _channel(address) as client:

            def call(picture: Picture) -> NDArray[Any]:
                encoded = isinstance(picture, bytes)
                batch = np.array([[picture]], np.object_) if encoded else np.asarray(picture)[np.newaxis]
                image = triton.InferInput("image", batch.shape, "BYTES" if encoded else "UINT8")
                image.set_data_from_numpy(batch)
                reply = client.infer(workload.model, [image], outputs=outputs)
                output: NDArray[Any] = reply.as_numpy("output")[0]
                return output

            yield call


@contextmanager
def _channel(address: str) -> Iterator[Any]:
    import tritonclient.grpc as triton

    with contextlib.closing(triton.InferenceServerClient(address)) as client:
        yield client


def _command(models: Path, address: str) -> list[str]:
    home = venv.site_packages() / "pytriton" / "tritonserver"
    _place_stub(home)
    host, port = address.split(":")
    options = {
        "model-repository": models,
        "backend-directory": home / "backends",
        "grpc-address": host,
        "grpc-port": port,
        "allow-http": "false",
        "allow-metrics": "false",
        "exit-timeout-secs": 5,
    }
    return [str(home / "bin" / "tritonserver"), *(f"--{name}={value}" for name, value in options.items())]


def _place_stub(home: Path) -> None:
    """The stub process of this Python, where the backend looks for it; pytriton copies it there too."""
    stub = home / "backends" / "python" / "triton_python_backend_stub"
    with contextlib.suppress(FileExistsError):
        stub.symlink_to(Path("..", "..", "python_backend_stubs", venv.version(), stub.name))


def _environ() -> dict[str, str]:
    """The stub finds packages by the first Python on PATH, whatever PYTHONPATH says, and links libpython."""
    libraries = [venv.library_folder(), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        "PATH": os.pathsep.join((str(venv.PYTHON.parent), os.environ.get("PATH", os.defpath))),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }
