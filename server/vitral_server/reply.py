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
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from vitral import decode as decodes
from vitral import framing, output_request
from vitral.errors import ImageError, VitralError
from vitral.limits import MAX_ERROR_BYTES
from vitral.results import Timings
from vitral.selection import Part, Selection
from vitral.spec import is_unproven
from vitral.tensors import Array
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import model_pb2, tensor_pb2
from vitral_engine import elements
from vitral_engine.half import cast
from vitral_server.place import Place
from vitral_server.target import NONE, Others, Target

if TYPE_CHECKING:
    from vitral_server.tracing import Trace

_Value = TypeVar("_Value")
_SCALE = tensor_pb2.DATA_TYPE_FLOAT32


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
        wanted: Sequence[Part],
        *,
        images: int,
        deadline: float,
        decode: str = decodes.EXACT,
        place: Place | None = None,
        trace: Trace | None = None,
        others: Others = NONE,
    ) -> None:
        self.deadline = deadline
        self.trace = trace
        self.stages = Stages()
        self.left = False
        self._decode = decodes.to_enum(decode)
        self._place = place
        self._writes = place is not None  # into memory of the caller
        self._spec, self._version, self._wanted, self._others = spec, version, wanted, others
        self._slots: list[list[elements.Made] | ImageError | None] = [None] * images
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
                    self._made(outputs[part.name][row], part, index, number)
                    for number, part in enumerate(self._parts(index))
                ]
            stages = self.stages
            stages.queue, stages.run = max(stages.queue, queue_ms), stages.run + run_ms
            took = perf_counter() - start
            stages.encode += took * 1e3
            if self.trace is not None:
                self.trace.stage("encode", took)
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
        if self._writes and not answered:
            with self._lock:  # of a thread that is at it, which takes the time of a copy
                pass
        self._place = None

    def _parts(self, index: int) -> Sequence[Part]:
        """What is wanted of the image at `index`, at its size."""
        other = self._others.get(index)
        return other.wanted if isinstance(other, Target) else self._wanted

    def _made(self, whole: Array, part: Part, index: int, number: int) -> elements.Made:
        rows = part.of(whole)
        if self._place is not None:
            return _placed(rows, part.selection, self._place, index, number)
        made = elements.made(rows, part.selection)
        if self._remaining and np.may_share_memory(made[0], whole):
            return (made[0].copy(),)
        return made

    def _finish(self) -> None:
        if self._remaining or self.gone:
            return
        frame = self._frame(self.stages.timings())
        self._slots.clear()  # the frame holds all that was in them
        self._post(self._resolve, frame)

    def _frame(self, timings: Timings) -> Frame:
        slots = (slot for slot in self._slots if isinstance(slot, list))
        first = 0 if self._place is None else 1  # values are in shared memory, scales are not
        arrays = [array for slot in slots for made in slot for array in made[first:]]
        return Frame(
            framing.join(self._header(timings), arrays),
            timings,
            failed=sum(isinstance(slot, ImageError) for slot in self._slots),
        )

    def _resolve(self, frame: Frame) -> None:
        if not self.future.done():
            self.future.set_result(frame)

    def _post(self, settle: Callable[[_Value], None], value: _Value) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has stopped and nobody waits
            self._loop.call_soon_threadsafe(settle, value)

    def _header(self, timings: Timings) -> bytes:
        reply = pb.EmbedResponse(
            model=self._spec.name,
            version=self._version,
            fingerprint=self._spec.fingerprint,
            decode=self._decode,
            unproven=is_unproven(self._spec),
        )
        reply.outputs.extend(output_request.write(part.name, part.selection) for part in self._wanted)
        payload = 0
        for index, slot in enumerate(self._slots):
            payload = self._tell(slot, index, reply.results.add(), payload)
        reply.timings.MergeFrom(pb.Timings(**vars(timings)))
        return reply.SerializeToString()

    def _tell(
        self,
        slot: Sequence[elements.Made] | ImageError | None,
        index: int,
        result: pb.ItemResult,
        payload: int,
    ) -> int:
        """Says in `result` what became of an image whose payloads begin at `payload`; gives their end."""
        if isinstance(slot, ImageError):
            result.error.CopyFrom(item_error(slot, slot.cause))
            return payload
        other = self._others.get(index)
        spec = other.spec if isinstance(other, Target) else self._spec
        result.grid.CopyFrom(spec.architecture.grid)
        for number, (part, made) in enumerate(zip(self._wanted, slot or (), strict=True)):
            dtype = tensor_pb2.DataType.ValueType(part.selection.dtype)
            tensor = result.outputs.add(name=part.name, dtype=dtype, shape=made[0].shape)
            if self._place is None:
                tensor.payload = payload
                payload += 1
            else:
                tensor.shared.CopyFrom(self._place.range(index, number, made[0].nbytes))
            if len(made) == 2:
                tensor.scale.dtype, tensor.scale.payload = _SCALE, payload
                tensor.scale.shape.extend(made[1].shape)
                payload += 1
        return payload


def item_error(error: VitralError, reason: str) -> pb.ItemError:
    """What a reply says of an image that failed."""
    said = str(error).encode()[:MAX_ERROR_BYTES].decode(errors="ignore")
    return pb.ItemError(code=error.code.value[0], reason=reason, message=said)


def _placed(rows: Array, selection: Selection, place: Place, index: int, number: int) -> elements.Made:
    """The same in the caller's memory."""
    target = place.array(index, number, selection.dtype, rows.shape)
    if selection.dtype == tensor_pb2.DATA_TYPE_FLOAT16 and not selection.l2_normalize:
        cast(rows, target)
        return (target,)
    made = elements.made(rows, selection)
    # Not by NumPy, which lets go of the interpreter for it: many threads wait to take it.
    target.data.cast("B")[:] = np.ascontiguousarray(made[0]).data.cast("B")
    return (target,) if len(made) == 1 else (target, made[1])
