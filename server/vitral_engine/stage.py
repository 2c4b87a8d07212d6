"""Batches on their way to a device and back: leased to callers, padded to a bucket, run on a free lane.

The same on every device. On a CPU it is off by default: batches run there at their own sizes, without copies.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import onnxruntime as ort

from vitral.tensors import Array
from vitral_engine.buckets import Buckets
from vitral_engine.buffers import Arena, Buffers, Signature
from vitral_engine.gate import GATE
from vitral_engine.lane import Lane
from vitral_engine.memory import Memory


class Stage:
    """The lanes of one graph. Any thread may run; each waits until a lane is free.

    Args:
        sessions: one for each lane.
        memories: one for each lane, all of one device.
        buckets: batch sizes that are run.
        graphs: run the sizes that were warmed as CUDA graphs.
    """

    def __init__(
        self,
        sessions: Sequence[ort.InferenceSession],
        memories: Sequence[Memory],
        signature: Signature,
        *,
        buckets: Buckets,
        graphs: bool,
    ) -> None:
        self.buckets = buckets
        self._signature, self._memory = signature, memories[0]
        self.lanes = tuple(
            Lane(session, signature, memory, graphs=graphs)
            for session, memory in zip(sessions, memories, strict=True)
        )
        self._warming = threading.Lock()
        self._free: SimpleQueue[Lane] = SimpleQueue()
        for lane in self.lanes:
            self._free.put(lane)

    def allocate(self, rows: int) -> Buffers:
        """Host buffers for up to `rows` rows and what pads them; of the native size, where there are more."""
        return Arena(self.host).buffers(self._signature, self.buckets.of(rows))

    def host(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """See `Memory.host`."""
        with GATE.shared():
            return self._memory.host(shape, dtype)

    def run(self, buffers: Buffers, count: int) -> None:
        """Runs the first `count` rows of the buffers, and fills no more than these of their outputs.

        Raises:
            ValueError: the buffers are too small.
        """
        rows = self.buckets.of(count)
        if not 1 <= count <= rows <= len(buffers.input):
            raise ValueError(f"{count} rows run as {rows}; the buffers hold {len(buffers.input)}")
        buffers.input[count:rows] = 0
        lane = self._free.get()
        try:
            lane.run(buffers, count, rows)
        finally:
            self._free.put(lane)

    def warm(self, sizes: Sequence[int]) -> None:
        """Makes every lane ready for these sizes; what runs at the same time ends first."""
        buffers = self.allocate(max(sizes))
        padded = sorted({self.buckets.of(size) for size in sizes})
        with self._warming:  # two that each hold some of the lanes would wait for ever
            taken = [self._free.get() for _ in self.lanes]
            try:
                for lane in taken:
                    lane.warm(buffers, padded)
            finally:
                for lane in taken:
                    self._free.put(lane)
