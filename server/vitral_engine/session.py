"""One graph in onnxruntime, run over bound buffers that have owners.

Buffers are made once for the largest batch, of the largest image, and reused: fresh outputs of this size
cost page faults at every run. Whoever leases buffers gives them back after its last read; buffers of a run
that did not return are never used again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from vitral import dynamic
from vitral.dynamic import Size
from vitral.errors import ArtifactError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine import staged
from vitral_engine.buffers import Arena, Buffers, Signature
from vitral_engine.gate import GATE
from vitral_engine.memory import HostMemory
from vitral_engine.placement import CPU, Placement
from vitral_engine.runtime import cpu_count
from vitral_engine.staging import DEFAULT, Staging

__all__ = ["LEVELS", "Buffers", "GraphSession", "SessionOptions"]

LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""Graph optimisation levels by name."""

_SIZES = 64
"""Image sizes whose shapes are remembered; working them out takes some 0.1 ms."""


@dataclass(frozen=True)
class SessionOptions:
    """How onnxruntime runs a graph.

    Attributes:
        threads: intra-op threads; 0 for every core this process may use.
        level: graph optimisation level, a key of `LEVELS`.
        share_weights: keep the weights as mapped from the shared file, without a prepacked copy.
        crowd: intra-op threads of a second session, for runs beside others; 0: there is none. Where batches
            are staged there never is: lanes take turns.
        staging: how batches get to a device.
        memory_plans: remember for each shape that was run how its memory is laid out. Hundreds of shapes
            would be hundreds of plans: a session of dynamic size has none.
    """

    threads: int = 0
    level: str = "all"
    share_weights: bool = False
    crowd: int = 0
    staging: Staging = DEFAULT
    memory_plans: bool = True


class GraphSession:
    """A graph, opened on one placement. `run` may be called from several threads.

    Attributes:
        stage: what takes batches to the device and back; None where they are run in place.
    """

    def __init__(
        self,
        file: Path,
        graph: pb.Graph,
        spec: pb.ModelSpec,
        *,
        placement: Placement,
        options: SessionOptions | None = None,
    ) -> None:
        self.graph = graph
        self.placement = placement
        outputs = [item for item in spec.outputs if item.name in graph.outputs]
        self._native = dynamic.native(spec)
        self._signature = staged.signature_of(spec, graph.file)
        self._sized = lru_cache(_SIZES)(partial(staged.signature_of, spec, graph.file))
        self._is_dynamic = dynamic.is_dynamic(spec)
        options = options or SessionOptions()
        if self._is_dynamic:
            options = replace(options, memory_plans=False)
        staging = options.staging
        fit = staged.fitted(placement, staging, spec, graph, level=options.level)
        self._session = _open(file, fit, options)
        self._check(file, outputs)
        another = partial(_open, file, fit, options)
        self.stage = staged.stage_of(
            placement, staging, self._signature, first=self._session, another=another
        )
        self._crowd = self._session
        if options.crowd and self.stage is None:
            self._crowd = _open(file, fit, replace(options, threads=options.crowd))
        self._free: list[Buffers] = []
        self._lock = threading.Lock()

    @property
    def has_crowd(self) -> bool:
        """Whether runs beside others have a session of their own."""
        return self._crowd is not self._session

    def run(self, batch: Array, *, alone: bool = True) -> dict[str, Array]:
        """Every output of the graph for `batch` (B, ...), as fresh arrays the caller owns."""
        count, size = batch.shape[0], self._size_of(batch)
        if self.stage is not None:
            with self.lease(count, size) as leased:
                np.copyto(leased.input[:count], batch, casting="no")
                self.run_bound(leased, count)
                return {name: array[:count].copy() for name, array in leased.outputs.items()}
        buffers = self.allocate(count, size)
        np.copyto(buffers.input, batch, casting="no")
        self.run_bound(buffers, count, alone=alone)
        return buffers.outputs

    def run_bound(self, buffers: Buffers, count: int, *, alone: bool = True) -> None:
        """Runs the first `count` rows of the buffers in place.

        Args:
            buffers: of this session.
            count: rows.
            alone: whether no other run shares the cores now.
        """
        if self.stage is not None:
            self.stage.run(buffers, count)
            return
        session = self._session if alone else self._crowd
        binding = session.io_binding()
        taken = self._signature.input
        rows = buffers.input[:count]
        binding.bind_input(taken.name, "cpu", 0, taken.element, rows.shape, rows.ctypes.data)
        for slot in self._signature.outputs:
            part = buffers.outputs[slot.name][:count]
            binding.bind_output(slot.name, "cpu", 0, slot.element, part.shape, part.ctypes.data)
        session.run_with_iobinding(binding)

    def allocate(self, rows: int, size: Size | None = None) -> Buffers:
        """Buffers for batches of up to `rows`.

        Args:
            rows: how many.
            size: height and width of the images, for a model of dynamic size; None: the native ones.

        Raises:
            InvalidArgumentError: the model does not take this size.
        """
        if self._is_dynamic:
            return self._arena().buffers(self._at(size), self._padded(rows))
        if self.stage is not None:
            return self.stage.allocate(rows)
        taken, given = self._signature.input, self._signature.outputs
        outputs = {slot.name: np.empty(slot.shape(rows), slot.dtype) for slot in given}
        return Buffers(np.zeros(taken.shape(rows), taken.dtype), outputs)

    @contextmanager
    def lease(self, rows: int, size: Size | None = None) -> Iterator[Buffers]:
        """Buffers for up to `rows`, given back on a clean exit and abandoned on any other; see `allocate`."""
        with self._lock:
            buffers = self._free.pop() if self._free else None
        if self._is_dynamic and buffers is not None and buffers.arena is not None:
            buffers = buffers.arena.buffers(self._at(size), self._padded(rows))
        elif buffers is None or buffers.input.shape[0] < rows:
            buffers = self.allocate(rows, size)
        yield buffers
        with self._lock:
            self._free.append(buffers)

    def warm(self, rows: int) -> None:
        """Runs batches of 1, of `rows` and of all buckets between: no caller pays for a first run."""
        if self.stage is not None:
            self.stage.warm([*(size for size in self.buckets if size < rows), rows])
            return
        with self.lease(rows) as buffers:
            for count in sorted({1, rows}):
                self.run_bound(buffers, count)
                if self.has_crowd:
                    self.run_bound(buffers, count, alone=False)

    def most_rows(self, most: int, size: Size | None) -> int:
        """Rows of a run at this size: with no more pixels than `most` of the native one, but one at least."""
        if size is None or not self._is_dynamic:
            return most
        return max(1, min(most, most * math.prod(self._native) // math.prod(size)))

    def row_bytes(self, size: Size) -> int:
        """Bytes of one row of the input at this size."""
        return self._at(size).input.size(1)

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes to which smaller batches are padded; empty where each runs at its own."""
        return self.stage.buckets.sizes if self.stage is not None else ()

    def _at(self, size: Size | None) -> Signature:
        return self._signature if size is None else self._sized(size)

    def _size_of(self, batch: Array) -> Size | None:
        """The image size of a batch, for a model of dynamic size."""
        if not self._is_dynamic:
            return None
        sides = {axis.name: side for axis, side in zip(self.graph.input.axes, batch.shape, strict=True)}
        return sides["height"], sides["width"]

    def _arena(self) -> Arena:
        return Arena(HostMemory().host if self.stage is None else self.stage.host)

    def _padded(self, rows: int) -> int:
        return rows if self.stage is None else self.stage.buckets.of(rows)

    def _check(self, file: Path, outputs: Sequence[pb.Output]) -> None:
        for slot in (self._signature.input, *self._signature.outputs):
            if 0 in slot.row:
                raise ArtifactError(f"{slot.name} of {file.name} has an extent that no image size tells")
        axes_of = {self.graph.input.name: self.graph.input.axes} | {item.name: item.axes for item in outputs}
        names = [item.name for item in self._session.get_inputs()]
        if names != [self.graph.input.name]:
            raise ArtifactError(f"{file.name} takes {names}, its manifest says {self.graph.input.name}")
        given = [item.name for item in self._session.get_outputs()]
        if given != list(self.graph.outputs):
            raise ArtifactError(f"{file.name} gives {given}, its manifest says {list(self.graph.outputs)}")
        for item in self._session.get_inputs() + self._session.get_outputs():
            said = tuple(axis.size or None for axis in axes_of[item.name])
            real = tuple(size if isinstance(size, int) else None for size in item.shape)
            if said != real:
                raise ArtifactError(f"{file.name}: {item.name} has shape {real}, its manifest says {said}")


def _open(file: Path, placement: Placement, options: SessionOptions) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.graph_optimization_level = LEVELS[options.level]
    settings.intra_op_num_threads = options.threads or cpu_count()
    settings.inter_op_num_threads = 1
    settings.enable_mem_pattern = options.memory_plans
    settings.log_severity_level = 3
    # Decoding shares the cores: a thread that spins between runs takes them from it.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.share_weights:
        settings.add_session_config_entry("session.disable_prepacking", "1")
    try:
        with GATE.shared():
            # Without fallback: onnxruntime would print a banner and open it on the CPU.
            session = ort.InferenceSession(
                str(file), settings, providers=placement.providers, enable_fallback=0
            )
    except Exception as error:  # onnxruntime raises classes of its own for every fault
        raise ArtifactError(f"onnxruntime cannot open {file.name}: {' '.join(str(error).split())}") from error
    got = session.get_providers()[0]
    if got != placement.provider and placement.provider != CPU:
        raise ArtifactError(f"{file.name} opened on {got}, not on {placement.provider}")
    return session
