"""Pictures to rows of arrays: through the engine in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np

import vitral_engine
from vitral.errors import ImageError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_extract.item import Item
from vitral_extract.layout import Column
from vitral_extract.stages import Stages


class Embedder(Protocol):
    """What a run embeds with. `embed` may be called from several threads.

    Attributes:
        spec: the model's spec.
        version: its version.
        provider: what it runs on.
        workers: threads that keep it busy.
    """

    spec: pb.ModelSpec
    version: str
    provider: str
    workers: int

    def embed(
        self, items: Sequence[Item], columns: Sequence[Column], rows: dict[str, Array], stages: Stages
    ) -> list[ImageError | None]:
        """Fills row i of every array with item i, cast to the array's type; the errors of those that fail."""

    def close(self) -> None:
        """Lets go of model or connection."""


class InProcess:
    """The engine in this process: each worker reads, decodes, preprocesses and runs its own batches.

    One thread a run: so each core does a whole batch, and nothing is handed from one thread to another.
    """

    def __init__(self, model: Path, *, device: str, workers: int) -> None:
        self._model = vitral_engine.open(model, device=device, threads=1)
        self.spec = self._model.spec
        self.version = self._model.version
        self.provider = self._model.placement.provider
        self.workers = workers

    def embed(
        self, items: Sequence[Item], columns: Sequence[Column], rows: dict[str, Array], stages: Stages
    ) -> list[ImageError | None]:
        """See `Embedder.embed`."""
        session = self._model.session_for(sorted({column.output for column in columns}), prepared=False)
        errors: list[ImageError | None] = [None] * len(items)
        good: list[int] = []
        with session.lease(len(items)) as buffers:
            for index, item in enumerate(items):
                try:
                    start = perf_counter()
                    data = item.read()
                    stages.add("read", perf_counter() - start)
                    row = self._model.intake.encoded(data, session.graph)
                except ImageError as error:
                    errors[index] = error
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
                _scatter(buffers.outputs, good, columns, rows)
                stages.add("cast", perf_counter() - start)
        return errors

    def close(self) -> None:
        """Lets the model go."""
        self._model.close()


def _scatter(
    outputs: dict[str, Array], good: Sequence[int], columns: Sequence[Column], rows: dict[str, Array]
) -> None:
    """Row i of the outputs to row good[i] of the arrays, in the arrays' own type."""
    for column in columns:
        part = column.of(outputs[column.output][: len(good)])
        target = rows[column.name]
        if good[-1] - good[0] + 1 == len(good):
            np.copyto(target[good[0] : good[-1] + 1], part, casting="same_kind")
        else:
            for index, row in zip(good, part, strict=True):
                np.copyto(target[index], row, casting="same_kind")
