"""One session's side of a device: fixed memory, fixed bindings, one run at a time.

A run copies a caller's input in, computes, and copies the caller's rows out before the next one begins:
between runs nothing of a caller's is on the device, so nobody can meet another's result. That is also what
CUDA graphs need, which read and write the addresses they were captured with, whatever is bound later.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count as counter
from typing import TypeAlias

import onnxruntime as ort

from vitral_engine.buffers import Buffers, Signature
from vitral_engine.gate import GATE
from vitral_engine.hand import Hand
from vitral_engine.memory import Block, Memory

log = logging.getLogger(__name__)

_CAPTURE_RUNS = 3
"""Runs until a graph is captured: up to two that only allocate, and the one that is captured."""

_MOST_BOUND = 64
"""Shapes that stay bound beside those of the native size: a model of dynamic size has hundreds."""

Key: TypeAlias = tuple[int, ...]
"""Rows of a batch, and the shape of one."""

_ids = counter(1)


@dataclass(frozen=True)
class Bound:
    """Device addresses of batches of one shape, bound once. It holds the blocks they lie in."""

    binding: ort.IOBinding
    input: int
    outputs: tuple[tuple[str, int], ...]
    blocks: tuple[Block, ...]


class Lane:
    """A session with device memory of its own. One run at a time; see `Stage`, which sees to that.

    Args:
        session: what runs; its own on a GPU.
        graphs: capture CUDA graphs in `warm` and replay them.
    """

    def __init__(
        self, session: ort.InferenceSession, signature: Signature, memory: Memory, *, graphs: bool
    ) -> None:
        self._session, self._signature, self._memory = session, signature, memory
        self._blocks: dict[str, Block] = {}
        self._bound: dict[Key, Bound] = {}
        self._captured: dict[Key, ort.RunOptions] = {}
        self._plain = _graph(-1) if graphs else None
        # onnxruntime keeps captured graphs by thread: in another one it would capture them again.
        self._hand = Hand("lane") if graphs else None

    def run(self, buffers: Buffers, count: int, rows: int) -> None:
        """Runs `rows` rows of the buffers' input, and fills the first `count` of their outputs."""
        self._do(partial(self._run, buffers, count, rows))

    def warm(self, buffers: Buffers, sizes: Sequence[int]) -> None:
        """Runs each size once, and captures its graph where graphs are wanted.

        The largest comes first, so that memory is made once, and then the smallest: TensorRT builds an engine
        anew for every size outside the range that it has seen.
        """
        *lower, largest = sorted(sizes)
        for rows in (largest, *lower):
            self._do(partial(self._run, buffers, rows, rows))
            key = _key(buffers, rows)
            if self._plain is not None and key not in self._captured:
                self._do(partial(self._capture, key))

    @property
    def captured(self) -> tuple[int, ...]:
        """Batch sizes that run as captured graphs."""
        return tuple(sorted(rows for rows, *_ in self._captured))

    def address(self, rows: int) -> int:
        """Where the input of a batch of this size lies on the device; 0 before its first run."""
        bound = self._bound.get(self._signature.input.shape(rows))
        return bound.input if bound else 0

    def _do(self, task: partial[None]) -> None:
        if self._hand is not None:
            self._hand.do(task)
        else:
            task()

    def _run(self, buffers: Buffers, count: int, rows: int) -> None:
        with GATE.shared():
            try:
                key = _key(buffers, rows)
                bound = self._bound.get(key) or self._bind(key, buffers)
                self._memory.upload(bound.input, buffers.input[:rows])
                options = self._captured.get(key, self._plain)
                self._session.run_with_iobinding(bound.binding, options)
                for name, address in bound.outputs:
                    self._memory.download(buffers.outputs[name][:count], address)
            except BaseException:
                self._abandon()
                raise

    def _capture(self, key: Key) -> None:
        options = _graph(next(_ids))
        with GATE.alone():
            try:
                for _ in range(_CAPTURE_RUNS):
                    self._session.run_with_iobinding(self._bound[key].binding, options)
            except BaseException:
                self._abandon()
                raise
            self._captured[key] = options

    def _bind(self, key: Key, buffers: Buffers) -> Bound:
        memory, signature = self._memory, self._signature
        shapes = {name: (key[0], *array.shape[1:]) for name, array in buffers.outputs.items()}
        self._make_room({slot.name: shapes[slot.name] for slot in signature.outputs}, key)
        binding, taken, blocks = self._session.io_binding(), signature.input, self._blocks
        address = blocks[taken.name].address
        where = (memory.kind, memory.index)
        binding.bind_input(taken.name, *where, taken.element, key, address)
        for slot in signature.outputs:
            to = blocks[slot.name].address
            binding.bind_output(slot.name, *where, slot.element, shapes[slot.name], to)
        outputs = tuple((slot.name, blocks[slot.name].address) for slot in signature.outputs)
        bound = Bound(binding, address, outputs, tuple(blocks.values()))
        self._bound[key] = bound
        return bound

    def _make_room(self, outputs: Mapping[str, Key], taken: Key) -> None:
        """Blocks that hold these shapes; other image sizes' bindings to smaller ones are let go."""
        slots = (self._signature.input, *self._signature.outputs)
        needed = {slot.name: math.prod(outputs.get(slot.name, taken)) * slot.dtype.itemsize for slot in slots}
        small = [
            name for name, size in needed.items() if name in self._blocks and self._blocks[name].size < size
        ]
        native = {key: bound for key, bound in self._bound.items() if key[1:] == self._signature.input.row}
        if small or len(self._bound) - len(native) >= _MOST_BOUND:
            self._bound = native
        for name, size in needed.items():
            if name in small or name not in self._blocks:
                self._blocks[name] = self._memory.block(size)

    def _abandon(self) -> None:
        """After a run that failed nobody knows what the device still does: its memory is never used again."""
        if self._captured:
            log.warning("a run failed: its captured CUDA graphs are dropped, plain runs take their place")
        self._bound, self._blocks, self._captured = {}, {}, {}


def _key(buffers: Buffers, rows: int) -> Key:
    return (rows, *buffers.input.shape[1:])


def _graph(number: int) -> ort.RunOptions:
    """Options of a run that captures or replays the graph of this number; -1 does neither."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options
