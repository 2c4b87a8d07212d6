"""Triton's core with its Python backend and onnxruntime inside, and tritonclient.

No package has Triton's own onnxruntime backend; what it would do better or worse is not measured here.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.peers import tritonserver
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
        return tritonserver.missing()

    def serves(self, workload: Workload) -> bool:
        """All of them."""
        return True

    @contextmanager
    def start(self, repo: Path, workload: Workload) -> Iterator[Running]:
        """The server over a repository made for the workload, ready; both gone on exit."""
        with tempfile.TemporaryDirectory() as folder:
            models = Path(folder) / "models"
            write(models, repo, workload, self._arrangement)
            with tritonserver.running(models) as running:
                yield replace(running, note=str(self._arrangement))

    @contextmanager
    def caller(self, address: str, workload: Workload) -> Iterator[Call]:
        """One InferenceServerClient, shared by all threads."""
        import tritonclient.grpc as triton

        outputs = [triton.InferRequestedOutput("output")]
        with tritonserver.channel(address) as client:

            def call(picture: Picture) -> NDArray[Any]:
                encoded = isinstance(picture, bytes)
                batch = np.array([[picture]], np.object_) if encoded else np.asarray(picture)[np.newaxis]
                image = triton.InferInput("image", batch.shape, "BYTES" if encoded else "UINT8")
                image.set_data_from_numpy(batch)
                reply = client.infer(workload.model, [image], outputs=outputs)
                output: NDArray[Any] = reply.as_numpy("output")[0]
                return output

            yield call
