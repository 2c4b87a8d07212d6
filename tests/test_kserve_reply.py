"""A reply on its way to a caller's memory: what goes wrong there stays there."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from uuid import uuid4

import numpy as np
import pytest

from vitral import spec as specs
from vitral.selection import part
from vitral.tensors import Array
from vitral.v1 import tensor_pb2
from vitral_engine.artifact import open_artifact
from vitral_server.kserve.datatype import TensorType
from vitral_server.kserve.region import Region, Slice
from vitral_server.kserve.reply import Form, InferAssembly
from vitral_server.kserve.status import RegionMemoryError

OUTPUT, ROW = "patch_embeddings", (16, 16)
ROW_BYTES = 16 * 16 * 4
ROWS = np.arange(512, dtype=np.float32).reshape(2, *ROW)


@dataclass(frozen=True)
class Held(Slice):
    """A slice whose write takes until it is told to go on."""

    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def put(self, place: int, row: Array) -> None:
        self.begun.set()
        assert self.go.wait(10)
        super().put(place, row)


@pytest.fixture
def region() -> Iterator[Region]:
    path = Path(f"/dev/shm/vitral_{uuid4().hex}")
    path.write_bytes(bytes(1 << 14))
    yield Region("r", f"/{path.name}", 0, 1 << 14)
    path.unlink()


@pytest.fixture
def assembly(small_repo: Path) -> Callable[[Slice], InferAssembly]:
    """A request of two images whose output goes to a slice."""
    spec = open_artifact(small_repo / "tiny").spec
    kind = TensorType(OUTPUT, "FP32", ROW, tensor_pb2.DATA_TYPE_FLOAT32)
    assert specs.output(spec, OUTPUT).dtype == kind.dtype

    def made(target: Slice) -> InferAssembly:
        form = Form("tiny", "1", "", [kind], {OUTPUT: target}, streamed=False)
        return InferAssembly(form, spec, [part(spec, OUTPUT)], images=2, deadline=monotonic() + 60)

    return made


@contextmanager
def _files_of(size: int) -> Iterator[None]:
    """No file of this process may become longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _deliver(assembly: InferAssembly, indices: tuple[int, ...] = (0, 1)) -> None:
    rows = [(index, row) for row, index in enumerate(indices)]
    assembly.deliver(rows, {OUTPUT: ROWS[list(indices)]}, queue_ms=0, run_ms=1)


async def test_rows_go_to_their_places(region: Region, assembly: Callable[[Slice], InferAssembly]) -> None:
    made = assembly(region.slice(1024, 2 * ROW_BYTES))
    _deliver(made, (1,))
    _deliver(made, (0,))
    frame = await made.future
    assert region.read(1024, 2 * ROW_BYTES) == ROWS.tobytes()
    assert len(frame.message) < 100
    assert made.runs == [(1, 1), (1, 1)]


async def test_memory_that_takes_nothing_fails_its_own_request(
    region: Region, assembly: Callable[[Slice], InferAssembly]
) -> None:
    made = assembly(region.slice(8192, 2 * ROW_BYTES))
    with _files_of(4096):
        _deliver(made)  # raises nothing: the batch has rows of others
    with pytest.raises(RegionMemoryError, match="'r' cannot be written: File too large"):
        await made.future
    short = assembly(region.slice(8192, 2 * ROW_BYTES))
    with _files_of(8192 + ROW_BYTES + 100):
        _deliver(short)
    with pytest.raises(RegionMemoryError, match=f"'r' took 100 of {ROW_BYTES} bytes"):
        await short.future


async def test_nothing_is_written_after_the_call_has_ended(
    region: Region, assembly: Callable[[Slice], InferAssembly]
) -> None:
    held = Held(region, 0, 2 * ROW_BYTES)
    made = assembly(held)
    writer = threading.Thread(target=_deliver, args=(made,))
    writer.start()
    assert held.begun.wait(10)
    leaver = threading.Thread(target=made.leave)
    leaver.start()
    leaver.join(0.1)
    assert leaver.is_alive(), "leaves while a thread writes"
    held.go.set()
    leaver.join(10)
    writer.join(10)
    assert region.read(0, 2 * ROW_BYTES) == ROWS.tobytes()
    os.ftruncate(region._descriptor, 0)
    _deliver(made)
    assert os.fstat(region._descriptor).st_size == 0
