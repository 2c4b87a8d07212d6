"""Pictures to rows of arrays: through the engine in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np

import vitral_engine
from vitral.decode import EXACT
from vitral.dynamic import Size
from vitral.errors import ImageError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine.runtime import require
from vitral_extract import cast
from vitral_extract.item import Item
from vitral_extract.layout import Column
from vitral_extract.stages import Stages


class Embedder(Protocol):
    """What a run embeds with. `embed` may be called from several threads.

    Attributes:
        spec: the model's spec, that of a static model at the size in use.
        version: its version.
        size: height and width of the images; None for a model that has but one size.
        provider: what it runs on.
        decode: how it decodes image files, "exact" or "fast".
        workers: threads that keep it busy.
        libraries: name to version of what decodes and runs, as far as it is known.
    """

    spec: pb.ModelSpec
    version: str
    size: Size | None
    provider: str
    decode: str
    workers: int
    libraries: Mapping[str, str]

    def embed(
        self, items: Sequence[Item], columns: Sequence[Column], rows: dict[str, Array], stages: Stages
    ) -> list[ImageError | None]:
        """Fills row i of every array with item i, cast to the array's type; the errors of those that fail."""

    def close(self) -> None:
        """Lets go of model or connection, and ends calls under way. A second time does nothing."""


class InProcess:
    """The engine in this process: each worker reads, decodes, preprocesses and runs its own batches.

    One thread a run: so each core does a whole batch, and nothing is handed from one thread to another.

    Args:
        model: folder of a model or of one version.
        device: "auto", "cpu", "cuda[:N]" or "tensorrt[:N]".
        workers: threads.
        decode: "exact" or "fast".
        size: height and width, for models of dynamic size; None: the native ones.

    Raises:
        VitralError: the model cannot be opened there, or does not take the size.
    """

    def __init__(
        self, model: Path, *, device: str, workers: int, decode: str = EXACT, size: Size | None = None
    ) -> None:
        self._model = vitral_engine.open(model, device=device, threads=1, decode=decode)
        sized = self._model.at(size)
        self.decode = decode
        self.spec, self.size, self._intake = sized.spec, sized.size, sized.intake
        self.version = self._model.version
        self.provider = self._model.placement.provider
        self.workers = workers
        runtime, version = require().split()
        self.libraries: Mapping[str, str] = {name: metadata.version(name) for name in ("numpy", "pillow")} | {
            runtime: version
        }

    def embed(
        self, items: Sequence[Item], columns: Sequence[Column], rows: dict[str, Array], stages: Stages
    ) -> list[ImageError | None]:
        """See `Embedder.embed`."""
        session = self._model.session_for(sorted({column.output for column in columns}), prepared=False)
        errors: list[ImageError | None] = [None] * len(items)
        good: list[int] = []
        with session.lease(len(items), self.size) as buffers:
            for index, item in enumerate(items):
                try:
                    start = perf_counter()
                    data = item.read()
                    stages.add("read", perf_counter() - start)
                    row = self._intake.encoded(data, session.graph)
                except ImageError as error:
                    errors[index] = _bare(error)
                    continue
                stages.add("decode", row.decode_ms / 1e3)
                stages.add("preprocess", row.preprocess_ms / 1e3)
                np.copyto(buffers.input[len(good)], row.array, casting="no")
                good.append(index)
            if good:
                start = perf_counter()
                session.run_bound(buffers, len(good))
                stages.add("run", perf_counter() - start)
                start = perf_counter()
                for index, misfit in cast.fill(buffers.outputs, good, columns, rows).items():
                    errors[index] = misfit
                stages.add("cast", perf_counter() - start)
        return errors

    def close(self) -> None:
        """Lets the model go."""
        self._model.close()


def _bare(error: ImageError) -> ImageError:
    """The error without the frames it came through: they keep bytes and pixels of the picture."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
