"""The reply of one ModelInfer request: as any reply, but each output holds the rows of all images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from vitral import framing
from vitral.errors import ImageError, InvalidArgumentError, VitralError
from vitral.results import Timings
from vitral.selection import Part
from vitral.spec import is_unproven
from vitral.tensors import Array
from vitral.v1 import model_pb2
from vitral_engine import elements
from vitral_server.kserve.datatype import TensorType
from vitral_server.kserve.region import Slice
from vitral_server.reply import Assembly, Frame

if TYPE_CHECKING:
    from vitral_server.tracing import Trace

RAW_OUTPUT_FIELD = 6
"""Field of ModelInferResponse that holds raw tensor bytes."""

STREAM_FIELD = 2
"""Field of ModelStreamInferResponse that holds a ModelInferResponse."""

_ELSEWHERE = np.empty(0, np.uint8)
"""Stands for a row that went to shared memory."""


@dataclass(frozen=True)
class Form:
    """What a reply says beside its tensors.

    Attributes:
        name, version: of the model.
        request_id: the caller's own; may be empty.
        outputs: in order.
        targets: output name to the shared memory that takes it in place of the reply.
        streamed: whether the reply is one of a stream.
    """

    name: str
    version: str
    request_id: str
    outputs: Sequence[TensorType]
    targets: Mapping[str, Slice]
    streamed: bool


class InferAssembly(Assembly):
    """Collects the rows of a request. One bad image fails all of it.

    Attributes:
        runs: batch size and milliseconds of each run whose first row was one of this request's.
    """

    def __init__(
        self,
        form: Form,
        spec: model_pb2.ModelSpec,
        wanted: Sequence[Part],
        *,
        images: int,
        deadline: float,
        trace: Trace | None = None,
    ) -> None:
        super().__init__(spec, form.version, wanted, images=images, deadline=deadline, trace=trace)
        self.runs: list[tuple[int, float]] = []
        self._form, self._images, self._writes = form, images, bool(form.targets)

    def refuse(self, index: int, error: ImageError) -> None:
        """The image at `index` is bad, and so is the request."""
        self.fail(InvalidArgumentError(f"image {index} of {self._images}: {error}"))
        self.left = True

    def deliver(
        self, rows: Sequence[tuple[int, int]], outputs: dict[str, Array], *, queue_ms: float, run_ms: float
    ) -> None:
        """See `Assembly.deliver`."""
        if rows[0][1] == 0:  # a run of several requests counts once
            self.runs.append((len(next(iter(outputs.values()))), run_ms))
        super().deliver(rows, outputs, queue_ms=queue_ms, run_ms=run_ms)

    def _made(self, whole: Array, part: Part, index: int, number: int) -> elements.Made:
        if (target := self._form.targets.get(part.name)) is not None:
            try:
                target.put(index, whole)
            except VitralError as error:
                self.fail(error)
            return (_ELSEWHERE,)
        # Rows of a run that is not the last are copied: its buffers go back.
        return (whole.copy() if self._remaining else whole,)

    def _frame(self, timings: Timings) -> Frame:
        rows = [slot for slot in self._slots if isinstance(slot, list)]
        payloads: list[list[Any]] = [
            [made[number][0] for made in rows] for number in range(len(self._wanted))
        ]
        header = self._message().SerializeToString()
        if self._form.streamed:
            sizes = [sum(row.nbytes for row in payload) for payload in payloads]
            header = framing.nested(header, sizes, within=STREAM_FIELD)
        return Frame(framing.join(header, payloads, field=RAW_OUTPUT_FIELD), timings, failed=0)

    def _message(self) -> Any:
        form = self._form
        reply = pb.ModelInferResponse(model_name=form.name, model_version=form.version, id=form.request_id)
        if is_unproven(self._spec):
            reply.parameters["vitral_unproven"].bool_param = True
        if form.streamed:
            reply.parameters["triton_final_response"].bool_param = True
        for kind in form.outputs:
            reply.outputs.add(name=kind.name, datatype=kind.datatype, shape=(self._images, *kind.dims))
        return reply
