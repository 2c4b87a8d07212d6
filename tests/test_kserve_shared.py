"""System shared memory: inputs and outputs in regions that callers on this machine registered."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import kserving
import numpy as np
import pytest
import tritonclient.grpc as triton
from kserving import MODEL, noise, same
from PIL import Image
from serving import Running
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException, serialize_byte_tensor, shared_memory

from vitral.errors import VitralError
from vitral_server.kserve import regions
from vitral_server.kserve.regions import Regions
from vitral_server.kserve.request import Range

LOCAL, AWAY = "ipv4:127.0.0.1:4000", "ipv4:10.1.2.3:4000"
SIZE = 1 << 17
AT = 4096


@contextmanager
def _memory(name: str, size: int = SIZE) -> Iterator[Any]:
    handle = shared_memory.create_shared_memory_region(name, f"/vitral_{name}_{os.getpid()}", size, True)
    try:
        yield handle
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def _held() -> int:
    """How often this process has memory of these tests open. Other files come and go beside them."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(f"/proc/self/fd/{name}").startswith("/dev/shm/vitral_")
    return found


@pytest.fixture
def client(kserve_server: Running) -> Iterator[Any]:
    with kserving.client(kserve_server.address) as opened:
        yield opened
        opened.unregister_system_shared_memory()


@pytest.fixture
def memory(client: Any) -> Iterator[Any]:
    """Memory of the caller's, registered as `r`."""
    with _memory("r") as handle:
        client.register_system_shared_memory("r", handle._shm_key, SIZE)
        yield handle


def _inputs(batch: Any, *, region: str = "r", size: int | None = None, offset: int = 0) -> list[Any]:
    taken = triton.InferInput("pixel_values", batch.shape, "FP32")
    taken.set_shared_memory(region, batch.nbytes if size is None else size, offset)
    return [taken]


def _output(name: str, size: int, *, region: str = "r", offset: int = AT * 16) -> Any:
    wanted = triton.InferRequestedOutput(name)
    wanted.set_shared_memory(region, size, offset)
    return wanted


def test_inputs_and_outputs(client: Any, memory: Any, preset_repo: Path) -> None:
    batch = noise(3)
    want = kserving.truth(preset_repo, batch)
    shared_memory.set_shared_memory_region(memory, [batch], offset=AT)
    size, end = want["embeddings"].nbytes, AT * 16 + want["embeddings"].nbytes
    guard = np.full(64, 7, np.uint8)
    for at in (AT * 16 - 64, end):
        shared_memory.set_shared_memory_region(memory, [guard], offset=at)
    outputs = [_output("embeddings", size), triton.InferRequestedOutput("patch_embeddings")]
    reply = client.infer(MODEL, _inputs(batch, offset=AT), outputs=outputs)
    got = shared_memory.get_contents_as_numpy(memory, np.float32, (3, 17, 16), offset=AT * 16)
    assert same(got, want["embeddings"])
    assert same(reply.as_numpy("patch_embeddings"), want["patch_embeddings"])
    told = reply.get_response()
    assert [len(raw) for raw in told.raw_output_contents] == [0, want["patch_embeddings"].nbytes]
    assert list(told.outputs[0].shape) == [3, 17, 16]
    for at in (AT * 16 - 64, end):
        around = shared_memory.get_contents_as_numpy(memory, np.uint8, (64,), offset=at)
        assert (around == 7).all()


def test_image_files(client: Any) -> None:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)).save(out, "PNG")
    data = serialize_byte_tensor(np.array([out.getvalue()] * 2, np.object_)).item()
    assert len(data) > 2 << 20, "more than the event loop copies itself"
    want = client.infer(f"{MODEL}_image", kserving.files(out.getvalue(), out.getvalue()))
    with _memory("big", len(data)) as handle:
        shared_memory.set_shared_memory_region(handle, [np.frombuffer(data, np.uint8)])
        client.register_system_shared_memory("big", handle._shm_key, len(data))
        taken = triton.InferInput("image", [2], "BYTES")
        taken.set_shared_memory("big", len(data))
        got = client.infer(f"{MODEL}_image", [taken])
    assert same(got.as_numpy("embeddings"), want.as_numpy("embeddings"))


def test_status_and_unregister(client: Any, memory: Any) -> None:
    client.register_system_shared_memory("part", memory._shm_key, 100, 28)
    told = client.get_system_shared_memory_status()
    want = {"name": "part", "key": memory._shm_key, "offset": 28, "byte_size": 100}
    assert {name: getattr(told.regions["part"], name) for name in want} == want
    assert set(told.regions) == {"r", "part"}
    assert set(client.get_system_shared_memory_status("part").regions) == {"part"}
    client.unregister_system_shared_memory("part")
    client.unregister_system_shared_memory("part")  # as often as one likes
    assert set(client.get_system_shared_memory_status().regions) == {"r"}
    with pytest.raises(InferenceServerException, match="Unable to find system shared memory region: 'part'"):
        client.get_system_shared_memory_status("part")
    client.unregister_system_shared_memory()
    assert not client.get_system_shared_memory_status().regions
    with pytest.raises(InferenceServerException, match="Unable to find shared memory region: 'r'"):
        client.infer(MODEL, _inputs(noise(1)))


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        ({"region": "zz"}, "NOT_FOUND", "Unable to find shared memory region: 'zz'"),
        ({"offset": SIZE - 100}, "INVALID_ARGUMENT", "Invalid offset + byte size for shared memory region"),
        ({"offset": SIZE}, "INVALID_ARGUMENT", "Invalid offset for shared memory region: 'r'"),
        ({"offset": -4}, "INVALID_ARGUMENT", "Invalid offset for shared memory region: 'r'"),
        ({"size": 0}, "INVALID_ARGUMENT", "Invalid offset + byte size for shared memory region: 'r'"),
        ({"size": 100}, "INVALID_ARGUMENT", "input byte size mismatch for input 'pixel_values'"),
        ({"size": 0, "offset": 8}, "INVALID_ARGUMENT", "Expected 12288, got 0"),
        ({"size": -1}, "INVALID_ARGUMENT", "Invalid offset + byte size for shared memory region: 'r'"),
    ],
)
def test_inputs_that_are_not_there(
    client: Any, memory: Any, inputs: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, _inputs(noise(1), **inputs))
    assert caught.value.status() == f"StatusCode.{code}"
    assert words in caught.value.message()


@pytest.mark.parametrize(
    ("output", "code", "words"),
    [
        ({"region": "zz"}, "NOT_FOUND", "Unable to find shared memory region: 'zz'"),
        ({"offset": SIZE - 100}, "INVALID_ARGUMENT", "Invalid offset + byte size for shared memory region"),
        ({"size": 1087}, "INTERNAL", "'embeddings' (1087 bytes) should be at least 1088 bytes to hold"),
    ],
)
def test_outputs_that_have_no_room(
    client: Any, memory: Any, output: dict[str, Any], code: str, words: str
) -> None:
    wanted = _output("embeddings", **({"size": 1088} | output))
    with pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, kserving.floats(noise(1)), outputs=[wanted])
    assert caught.value.status() == f"StatusCode.{code}"
    assert words in caught.value.message()


def test_memory_that_is_cut_short_ends_its_own_request_only(client: Any, memory: Any) -> None:
    batch = noise(2)
    os.truncate(f"/dev/shm{memory._shm_key}", 100)
    with pytest.raises(InferenceServerException, match="was cut short: only 100 of the 24576 bytes at 0"):
        client.infer(MODEL, _inputs(batch))
    size = 2 * 17 * 16 * 4
    reply = client.infer(MODEL, kserving.floats(batch), outputs=[_output("embeddings", size)])
    got = np.fromfile(f"/dev/shm{memory._shm_key}", np.uint8)[AT * 16 :].view(np.float32)
    want = client.infer(MODEL, kserving.floats(batch)).as_numpy("embeddings")
    assert same(got.reshape(2, 17, 16), want)
    assert reply.as_numpy("patch_embeddings") is None


def test_a_region_must_be_there(kserve_server: Running, memory: Any) -> None:
    path = Path(f"/dev/shm/vitral_link_{os.getpid()}")
    path.symlink_to("/etc/hostname")
    key = memory._shm_key
    cases = [
        ("a", "/nothing", 0, 10, "INTERNAL", "Unable to open shared memory region: '/nothing'"),
        ("a", "/../../etc/hostname", 0, 1, "INTERNAL", "Unable to open shared memory region"),
        ("a", f"/{path.name}", 0, 1, "INTERNAL", "Unable to open shared memory region"),
        ("a", "", 0, 1, "INTERNAL", "Unable to open shared memory region: ''"),
        ("a", key, 0, SIZE + 1, "INVALID_ARGUMENT", "bytes 0 to 131073 of the 131072"),
        ("a", key, 10, SIZE, "INVALID_ARGUMENT", "failed to register shared memory region 'a': invalid args"),
        ("a", key, 0, 0, "INVALID_ARGUMENT", "invalid args"),
        ("r", key, 0, 10, "ALREADY_EXISTS", "shared memory region 'r' already in manager"),
    ]
    try:
        with kserving.stub(kserve_server.address) as stub:
            for name, where, offset, size, code, words in cases:
                request = pb.SystemSharedMemoryRegisterRequest(
                    name=name, key=where, offset=offset, byte_size=size
                )
                got, told = kserving.refusal(stub.SystemSharedMemoryRegister, request)
                assert (got, words in told) == (code, True), told
    finally:
        path.unlink()


def test_parameters_must_be_whole(kserve_server: Running) -> None:
    with kserving.stub(kserve_server.address) as stub:
        for name, kind, value, words in (
            ("shared_memory_region", "int64_param", 1, "expected string_param."),
            ("shared_memory_byte_size", "string_param", "1", "expected int64_param."),
            ("shared_memory_offset", "string_param", "1", "expected int64_param."),
            ("shared_memory_byte_size", None, None, "must be specified along with"),
            ("shared_memory_region", None, None, "can not be specified without 'shared_memory_region'"),
        ):
            request = kserving.message(noise(1))
            parameters = request.inputs[0].parameters
            parameters["shared_memory_region"].string_param = "r"
            parameters["shared_memory_byte_size"].int64_param = 12288
            if kind is None:
                del parameters[name]
            else:
                setattr(parameters[name], kind, value)
            code, told = kserving.refusal(stub.ModelInfer, request)
            assert (code, words in told) == ("INVALID_ARGUMENT", True), told


def test_only_callers_on_this_machine() -> None:
    made, request = Regions(), pb.SystemSharedMemoryRegisterRequest(name="a", key="/a", byte_size=1)
    for call in (
        lambda: made.register(request, peer=AWAY),
        lambda: made.unregister("a", peer=AWAY),
        lambda: made.status("", peer=AWAY),
        lambda: made.find(Range("a", 0, 1), peer=AWAY),
    ):
        with pytest.raises(VitralError, match=f"for callers on this machine, and {AWAY} is none") as caught:
            call()
        assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED


def test_regions_are_bounded_and_those_without_a_key_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "MOST", 2)
    made = Regions()

    def register(name: str, key: str) -> None:
        made.register(pb.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=SIZE), peer=LOCAL)

    with _memory("a") as kept:
        with _memory("b") as gone:
            register("a", kept._shm_key)
            register("b", gone._shm_key)
            with pytest.raises(VitralError, match="2 shared memory regions are registered; the limit is 2"):
                register("c", kept._shm_key)
        held = _held()
        register("c", kept._shm_key)
        assert set(made.status("", peer=LOCAL).regions) == {"a", "c"}
        assert _held() == held
        made.unregister("", peer=LOCAL)
        assert _held() == held - 2
