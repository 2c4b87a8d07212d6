"""The reply of one request, put together by whichever thread runs its last batch.

That thread frames it, header and slices in one join, while it still owns the buffers: the one copy. Slices of
an earlier batch are copied out before those buffers go back. Where the caller named shared memory, slices go
straight there, also the one copy.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

import numpy as np

from vitral import framing
from vitral.errors import ImageError
from vitral.limits import MAX_ERROR_BYTES
from vitral.results import Timings
from vitral.tensors import Array, numpy_dtype
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import model_pb2, tensor_pb2
from vitral_engine.half import cast
from vitral_server.call import Wanted
from vitral_server.place import Place

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Frame:
    """A framed reply and what the log says of it."""

    message: bytes
    timings: Timings
    failed: int


@dataclass
class Stages:
    """Milliseconds of one request, summed or maximal over its images."""

    start: float = field(default_factory=perf_counter)
    decode: float = 0.0
    preprocess: float = 0.0
    queue: float = 0.0
    run: float = 0.0
    encode: float = 0.0
    batch: int = 0

    def timings(self) -> Timings:
        """As the caller gets them."""
        total = (perf_counter() - self.start) * 1e3
        return Timings(self.decode, self.preprocess, self.queue, self.run, self.encode, total, self.batch)


class Assembly:
    """Collects the outputs of a request's images and resolves its future with a `Frame`."""

    def __init__(
        self,
        spec: model_pb2.ModelSpec,
        version: str,
        wanted: Sequence[Wanted],
        *,
        images: int,
        deadline: float,
        place: Place | None = None,
    ) -> None:
        self.deadline = deadline
        self.stages = Stages()
        self.left = False
        self._place = place
        self._spec, self._version, self._wanted = spec, version, wanted
        self._slots: list[list[Array] | ImageError | None] = [None] * images
        self._remaining = images
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Frame] = self._loop.create_future()

    @property
    def gone(self) -> bool:
        """Whether nobody waits for this reply any more."""
        return self.left or self.future.done()

    def refuse(self, index: int, error: ImageError) -> None:
        """The image at `index` failed by itself."""
        with self._lock:
            self._slots[index] = error
            self._remaining -= 1
            self._finish()

    def deliver(
        self, rows: Sequence[tuple[int, int]], outputs: dict[str, Array], *, queue_ms: float, run_ms: float
    ) -> None:
        """Takes the outputs of (image index, batch row) pairs; the caller still owns the buffers."""
        with self._lock:
            if self.gone:
                return
            start = perf_counter()
            self._remaining -= len(rows)
            for index, row in rows:
                self._slots[index] = [
                    self._slice(outputs[item.name][row], item, index, number)
                    for number, item in enumerate(self._wanted)
                ]
            stages = self.stages
            stages.queue, stages.run = max(stages.queue, queue_ms), stages.run + run_ms
            stages.encode += (perf_counter() - start) * 1e3
            stages.batch = max(stages.batch, len(next(iter(outputs.values()))))
            self._finish()

    def fail(self, error: Exception) -> None:
        """The request as a whole ends with this error, if anybody still waits for it. From any thread."""
        if not self.gone:
            self._post(self.end, error)

    def end(self, error: Exception) -> None:
        """The same, on the event loop."""
        if not self.future.done():
            self.future.set_exception(error)

    def leave(self) -> None:
        """Nobody waits any more; where this returns, no thread writes into the caller's memory any more."""
        self.left = True
        answered = self.future.done() and not self.future.cancelled() and self.future.exception() is None
        if self._place is not None and not answered:
            with self._lock:  # of a thread that is at it, which takes the time of a copy
                pass
        self._place = None

    def _slice(self, part: Array, wanted: Wanted, index: int, number: int) -> Array:
        dtype = numpy_dtype(wanted.dtype)
        if self._place is not None:
            made = self._place.array(index, number, wanted.dtype, part.shape)
            if part.dtype != dtype:
                cast(part, made)
            else:  # not by NumPy, which lets go of the interpreter for it: many threads wait to take it
                made.data.cast("B")[:] = part.data.cast("B")
            return made
        if part.dtype != dtype:
            made = np.empty(part.shape, dtype)
            cast(part, made)
            return made
        return part if self._remaining == 0 else part.copy()

    def _finish(self) -> None:
        if self._remaining or self.gone:
            return
        timings = self.stages.timings()
        arrays = [array for slot in self._slots if isinstance(slot, list) for array in slot]
        frame = Frame(
            framing.join(self._header(timings), arrays if self._place is None else ()),
            timings,
            failed=sum(isinstance(slot, ImageError) for slot in self._slots),
        )
        self._slots.clear()  # the frame holds all that was in them
        self._post(self._resolve, frame)

    def _resolve(self, frame: Frame) -> None:
        if not self.future.done():
            self.future.set_result(frame)

    def _post(self, settle: Callable[[_Value], None], value: _Value) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has stopped and nobody waits
            self._loop.call_soon_threadsafe(settle, value)

    def _header(self, timings: Timings) -> bytes:
        grid = tensor_pb2.Grid(
            height=self._spec.architecture.grid.height, width=self._spec.architecture.grid.width
        )
        reply = pb.EmbedResponse(
            model=self._spec.name, version=self._version, fingerprint=self._spec.fingerprint
        )
        payload = 0
        for index, slot in enumerate(self._slots):
            if isinstance(slot, ImageError):
                code: int = slot.code.value[0]
                said = str(slot).encode()[:MAX_ERROR_BYTES].decode(errors="ignore")
                reply.results.add(error=pb.ItemError(code=code, reason=slot.cause, message=said))
                continue
            result = reply.results.add(grid=grid)
            for number, (wanted, array) in enumerate(zip(self._wanted, slot or (), strict=True)):
                tensor = result.outputs.add(name=wanted.name, dtype=wanted.dtype, shape=array.shape)
                if self._place is None:
                    tensor.payload = payload
                    payload += 1
                else:
                    tensor.shared.CopyFrom(self._place.range(index, number, array.nbytes))
        reply.timings.MergeFrom(pb.Timings(**vars(timings)))
        return reply.SerializeToString()
