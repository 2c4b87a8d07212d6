"""Pictures to rows of arrays: through one or several servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from time import perf_counter

import numpy as np

from vitral import decode as decodes
from vitral import dynamic
from vitral.dynamic import Size
from vitral.errors import (
    DeadlineError,
    ImageError,
    InvalidArgumentError,
    QueueFullError,
    UnavailableError,
    VitralError,
)
from vitral.results import Embedding
from vitral.tensors import Array
from vitral.v1.embedding_service_pb2 import Decode, ServedModel
from vitral_client import Client
from vitral_extract import cast
from vitral_extract.item import Item
from vitral_extract.layout import Column
from vitral_extract.stages import Stages

_ASKING = 5.0  # seconds for one server of several
_IN_FLIGHT = 4  # requests for each server
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
"""Seconds between tries at a server that is full or away: a restart must not end a run of hours."""


class Remote:
    """`vitral-server`s behind the client, which spreads the calls over them.

    Args:
        server: `host:port`, several joined by commas.
        model: `NAME` or `NAME/VERSION`; None: the only one served.
        timeout: seconds a request has.
        workers: requests in flight; 0: four for each server.
        decode: how they must decode image files, "exact" or "fast"; None: as they do, all alike.
        size: height and width, for models of dynamic size; None: the native ones.

    Raises:
        VitralError: no server answers, it has no such model, it decodes otherwise, or the model does not take
            the size.
    """

    def __init__(
        self,
        server: str,
        *,
        model: str | None,
        timeout: float,
        workers: int = 0,
        decode: str | None = None,
        size: Size | None = None,
    ) -> None:
        self._client = Client(server, timeout=timeout)
        self._closed = threading.Event()
        try:
            served = self._client.model(model)
            self.decode = decode or decodes.of_enum(served.decode)
            _demand_decode(self.decode, server, served, model)
            self.spec = dynamic.at(served.spec, size)
        except BaseException:
            self._client.close()
            raise
        self._name = model or served.spec.name
        self.size = (size or dynamic.native(served.spec)) if dynamic.is_dynamic(served.spec) else None
        self.version = served.version
        self.provider = served.provider
        self.workers = workers or _IN_FLIGHT * (server.count(",") + 1)
        self.libraries: Mapping[str, str] = {}

    def embed(
        self, items: Sequence[Item], columns: Sequence[Column], rows: dict[str, Array], stages: Stages
    ) -> list[ImageError | None]:
        """See `Embedder.embed`.

        Raises:
            VitralError: the servers did not answer for about a minute, or have another model by now.
        """
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
        # Means are taken here, in float32, as in process.
        wide = any(column.view == "mean" or rows[column.name].dtype == np.float32 for column in columns)
        found = self._ask(list(sent.values()), columns, "float32" if wide else "float16")
        stages.add("call", perf_counter() - start)
        start = perf_counter()
        for (index, data), result in zip(sent.items(), found, strict=True):
            errors[index] = self._place(index, data, result, columns, rows, wide=wide)
        stages.add("cast", perf_counter() - start)
        return errors

    def close(self) -> None:
        """Closes the connection."""
        self._closed.set()
        self._client.close()

    def _place(
        self,
        index: int,
        data: bytes,
        result: Embedding | ImageError,
        columns: Sequence[Column],
        rows: dict[str, Array],
        *,
        wide: bool,
    ) -> ImageError | None:
        if isinstance(result, ImageError):
            return result
        outputs = {name: array[None] for name, array in result.outputs.items()}  # ... -> 1 ...
        errors = cast.fill(outputs, [index], columns, rows)
        if errors and not wide:
            # Whether the model gave Inf or float16 could not hold the value: float32 tells.
            (again,) = self._ask([data], columns, "float32")
            return self._place(index, data, again, columns, rows, wide=True)
        return errors.get(index)

    def _ask(
        self, images: list[bytes], columns: Sequence[Column], dtype: str
    ) -> list[Embedding | ImageError]:
        for pause in (*_PAUSES, None):
            try:
                found = self._client.embed(
                    images,
                    model=self._name,
                    outputs=list(dict.fromkeys(column.output for column in columns)),
                    dtype=dtype,
                    size=self.size,
                    errors="return",
                    expect_fingerprint=self.spec.fingerprint,
                )
            except (QueueFullError, UnavailableError, DeadlineError):
                if pause is None or self._closed.wait(pause):
                    raise
                continue
            # One of several servers may have been started anew meanwhile, and otherwise.
            if other := {one.decode for one in found if isinstance(one, Embedding)} - {self.decode}:
                said = f"a server decodes {other.pop()} by now, this run is {self.decode}"
                raise InvalidArgumentError(said)
            return found
        raise AssertionError("the last try returns or raises")


def _demand_decode(decode: str, server: str, served: ServedModel, model: str | None) -> None:
    """Refuses servers that decode otherwise, each by its name; the replies tell of those that are away."""
    names = [name.strip() for name in server.split(",") if name.strip()]
    modes = {server: served.decode} if len(names) < 2 else dict(_asked(names, model))
    if any(decodes.of_enum(mode) != decode for mode in modes.values()):
        told = ", ".join(f"{name} decodes {decodes.of_enum(mode)}" for name, mode in modes.items())
        advice = f"start each with --decode {decode}"
        raise InvalidArgumentError(f"this run decodes {decode}, and {told}: {advice}")


def _asked(names: Sequence[str], model: str | None) -> Iterator[tuple[str, Decode.ValueType]]:
    for name in names:
        with suppress(VitralError), Client(name, timeout=_ASKING) as client:
            yield name, client.model(model).decode
