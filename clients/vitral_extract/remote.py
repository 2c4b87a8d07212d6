"""Pictures to rows of arrays: through one or several servers."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from vitral.errors import ImageError
from vitral.tensors import Array
from vitral_client import Client
from vitral_extract.item import Item
from vitral_extract.layout import Column
from vitral_extract.stages import Stages

_IN_FLIGHT = 4  # requests for each server


class Remote:
    """`vitral-server`s behind the client, which spreads the calls over them."""

    def __init__(self, server: str, *, model: str | None, timeout: float) -> None:
        self._client = Client(server, timeout=timeout)
        try:
            served = self._client.model(model)
        except BaseException:
            self._client.close()
            raise
        self.spec = served.spec
        self.version = served.version
        self.provider = served.provider
        self.workers = _IN_FLIGHT * (server.count(",") + 1)

    def embed(
        self, items: Sequence[Item], columns: Sequence[Column], rows: dict[str, Array], stages: Stages
    ) -> list[ImageError | None]:
        """See `Embedder.embed`."""
        errors: list[ImageError | None] = [None] * len(items)
        sent: dict[int, bytes] = {}
        start = perf_counter()
        for index, item in enumerate(items):
            try:
                sent[index] = item.read()
            except ImageError as error:
                errors[index] = error
        stages.add("read", perf_counter() - start)
        if not sent:
            return errors
        start = perf_counter()
        found = self._client.embed(
            list(sent.values()),
            model=f"{self.spec.name}",
            outputs=list(dict.fromkeys(column.output for column in columns)),
            # Means are taken here, and in float32, as in process.
            dtype="float32" if self._wide(columns, rows) else "float16",
            errors="return",
            expect_fingerprint=self.spec.fingerprint,
        )
        stages.add("call", perf_counter() - start)
        start = perf_counter()
        for index, result in zip(sent, found, strict=True):
            if isinstance(result, ImageError):
                errors[index] = result
                continue
            for column in columns:
                np.copyto(
                    rows[column.name][index], column.of(result.outputs[column.output]), casting="same_kind"
                )
        stages.add("cast", perf_counter() - start)
        return errors

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _wide(self, columns: Sequence[Column], rows: dict[str, Array]) -> bool:
        return any(column.view == "mean" or rows[column.name].dtype == np.float32 for column in columns)
