"""Shared memory, as it is asked of Triton and of vitral: each question has memory of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from asking import Answer, Asker, Step
from kserving import message, noise
from triton_questions import Change, Steps, parameter, stream
from tritonclient.grpc import service_pb2 as pb

SIZE = 1 << 17
"""Bytes of the memory."""

INPUT, OUTPUT = 12288, 1088
"""Bytes of one row of `pixel_values` and of `embeddings`."""

AT = 1 << 16
"""Where outputs go."""

KEY = f"/vitral_triton_{os.getpid()}"
"""The memory's name, for one server after the other: errors tell it."""


@contextmanager
def memory() -> Iterator[Path]:
    """The memory, with a row of input at its beginning; removed on exit."""
    path = Path(f"/dev/shm{KEY}")
    path.write_bytes(noise(1).tobytes().ljust(SIZE, b"\0"))
    try:
        yield path
    finally:
        path.unlink()


def ask(asker: Asker, steps: Steps) -> list[Answer]:
    """The answers, and what the memory holds after them; no region is left."""
    with memory() as path:
        answers = asker.ask(steps)
        floats = np.frombuffer(path.read_bytes(), np.float32)
        return [*answers, *asker.ask([unregister("")]), Answer("memory", tensors=[floats])]


def register(name: str = "r", key: str = KEY, offset: int = 0, size: int = SIZE) -> Step:
    """A region."""
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)
    return "SystemSharedMemoryRegister", request


def unregister(name: str) -> Step:
    """One region, or all."""
    return "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=name)


def status(name: str = "") -> Step:
    """Of one region, or all."""
    return "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name=name)


def taken(
    region: str = "r", size: int | None = INPUT, offset: int | None = None, change: Change | None = None
) -> Step:
    """An inference whose input is in a region."""
    request = message(noise(1), id="m")
    del request.raw_input_contents[:]
    _place(request.inputs[0].parameters, region, size, offset)
    if change is not None:
        change(request)
    return "ModelInfer", request


def given(
    region: str = "r",
    size: int | None = OUTPUT,
    offset: int | None = AT,
    change: Change | None = None,
    rows: int = 1,
    outputs: tuple[str, ...] = ("embeddings",),
) -> Step:
    """An inference whose first output goes to a region."""
    request = message(noise(rows), outputs=outputs, id="m")
    _place(request.outputs[0].parameters, region, size, offset)
    if change is not None:
        change(request)
    return "ModelInfer", request


def _place(parameters: Any, region: str, size: int | None, offset: int | None) -> None:
    parameters["shared_memory_region"].string_param = region
    if size is not None:
        parameters["shared_memory_byte_size"].int64_param = size
    if offset is not None:
        parameters["shared_memory_offset"].int64_param = offset


def _both(request: Any) -> None:
    request.outputs.extend(given()[1].outputs)


_REGIONS: Mapping[str, Steps] = {
    "nothing": [status(), status("zz"), unregister("zz"), unregister("")],
    "one": [register(), status(), status("r"), unregister("r"), status(), status("r"), register()],
    "without a slash": [register(key=KEY[1:]), status("r"), taken()],
    "without a name": [register(name=""), status()],
    "twice": [register(), register(), register(size=10), status()],
    # Nothing is taken from it: Triton 2.51 adds the region's own offset twice, and reads elsewhere.
    "a part of it": [register(offset=4096, size=20000), status()],
    "more than all": [register(size=SIZE + 1)],
    "a page more": [register(size=SIZE + 4096)],
    "an offset too far": [register(offset=4096)],
    "an offset at the end": [register(offset=SIZE, size=10)],
    "an offset far away": [register(offset=2**63, size=10)],
    "an enormous size": [register(size=2**63)],
    "zero size": [register(size=0), status()],
    "no such key": [register(key="/vitral_nothing")],
    "no key": [register(key="")],
    "another folder": [register(key="/../../etc/hostname", size=1)],
    "a folder": [register(key="/", size=1)],
    "forgotten": [register(), unregister("r"), taken(), given()],
}
_INPUTS: Mapping[str, Steps] = {
    "input": [taken()],
    "input and output": [taken(change=_both)],
    "input raw too": [taken(change=lambda request: request.raw_input_contents.append(noise(1).tobytes()))],
    "input typed too": [taken(change=lambda request: request.inputs[0].contents.fp32_contents.append(1))],
    "input, no such region": [taken("zz")],
    "input, a region without a name": [taken("")],
    "input, no size": [taken(size=None)],
    "input too small": [taken(size=100)],
    "input too large": [taken(size=INPUT + 1)],
    "input of no bytes": [taken(size=0)],
    "input of no bytes, inside": [taken(size=0, offset=64)],
    "input of less than no bytes": [taken(size=-1)],
    "input at the end": [taken(offset=SIZE - INPUT), taken(offset=SIZE - INPUT + 1)],
    "input behind the end": [taken(offset=SIZE), taken(offset=SIZE + 1)],
    "input in front": [taken(offset=-4)],
    "input at an enormous offset": [taken(offset=2**63 - 1)],
    "input of an enormous size": [taken(size=2**63 - 1)],
    "input, a size without a region": [
        taken(change=lambda request: request.inputs[0].parameters.pop("shared_memory_region"))
    ],
    "outputs": [given(), given(offset=None), given(size=2000), given(rows=2, size=2 * OUTPUT)],
    "outputs, another raw": [given(outputs=("embeddings", "patch_embeddings"))],
    "output too small": [given(size=OUTPUT - 1)],
    "output of no bytes": [given(size=0)],
    "output of more rows": [given(rows=2)],
    "output, no such region": [given("zz")],
    "output, no size": [given(size=None)],
    "output at the end": [given(offset=SIZE - OUTPUT), given(offset=SIZE - OUTPUT + 1)],
    "output behind the end": [given(offset=SIZE)],
    "output in front": [given(offset=-1)],
    "output of another name": [given(outputs=("zz",))],
    "stream": stream(taken(), given(size=10), given("zz"), given()),
}
_KINDS = {
    "shared_memory_region": ("int64_param", 1),
    "shared_memory_byte_size": ("string_param", "1"),
    "shared_memory_offset": ("string_param", "1"),
}


def _kinds(of: str, make: Callable[..., Step]) -> dict[str, Steps]:
    return {
        f"{of}, {name} of another type": [make(change=parameter(name, *kind, of=of))]
        for name, kind in _KINDS.items()
    }


QUESTIONS: Mapping[str, Steps] = dict(_REGIONS) | {
    name: [register(), *steps]
    for name, steps in {**_INPUTS, **_kinds("inputs", taken), **_kinds("outputs", given)}.items()
}
"""Situation to what is asked."""
