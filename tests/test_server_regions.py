"""Shared memory as the server sees it: who may register what, and where it may be asked to write."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import grpc
import numpy as np
import pytest
from serving import running

from vitral.errors import REASON_KEY, DeadlineError, RegionError
from vitral.selection import part
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import model_pb2, tensor_pb2
from vitral.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from vitral_engine.artifact import open_artifact
from vitral_server.call import Shared
from vitral_server.peer import is_local
from vitral_server.place import Place
from vitral_server.regions import Regions
from vitral_server.reply import Assembly

SIZE = 1 << 16
PROOF = b"sixteen and more"
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


@dataclass
class Memory:
    """A memfd, ready to be registered unless it is told otherwise."""

    size: int = SIZE
    seals: int = fcntl.F_SEAL_SHRINK
    locked: bool = True
    proof: bytes = PROOF

    def __post_init__(self) -> None:
        self.descriptor = os.memfd_create("vitral", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, self.size)
        os.pwrite(self.descriptor, self.proof, 0)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, self.seals)
        if self.locked:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def request(self, **changes: object) -> pb.RegisterRegionRequest:
        usual = {"process": os.getpid(), "descriptor": self.descriptor, "size": SIZE, "proof": PROOF}
        return pb.RegisterRegionRequest(**(usual | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stub(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingServiceStub]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running(small_repo, log=log) as server, grpc.insecure_channel(server.address) as channel:
        yield EmbeddingServiceStub(channel)


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    os.close(made.descriptor)


def _refused(call: grpc.UnaryUnaryMultiCallable, request: object) -> tuple[str, str]:  # type: ignore[type-arg]
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    reason = dict(caught.value.trailing_metadata())[REASON_KEY]  # type: ignore[attr-defined]
    return str(reason), str(caught.value.details())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("made", "changes", "reason", "words"),
    [
        ({"seals": 0}, {}, "region", "no memfd of ordinary pages sealed by F_SEAL_SHRINK"),
        ({"locked": False}, {}, "region", "is not locked by its owner"),
        ({"size": 4096}, {}, "region", "has 4096 bytes, and 65536 are to be mapped"),
        ({"proof": b"another proof..."}, {}, "region", "does not begin with the proof of 16 bytes"),
        ({}, {"proof": b"short"}, "invalid_argument", "the proof has 5 bytes; it must have 16 to 64"),
        ({}, {"size": 0}, "invalid_argument", "the region has 0 bytes; it must have 4096 to 1073741824"),
        ({}, {"size": 1 << 40}, "invalid_argument", "has 1099511627776 bytes"),
        ({}, {"descriptor": 9999}, "region", "has no memfd open as descriptor 9999"),
        ({}, {"process": 2**22 + 1}, "region", "process 4194305 has no memfd open"),
    ],
)
def test_memory_that_is_not_safe_or_not_the_callers_is_refused(
    stub: EmbeddingServiceStub, made: dict[str, object], changes: dict[str, object], reason: str, words: str
) -> None:
    memory = Memory(**made)  # type: ignore[arg-type]
    told, details = _refused(stub.RegisterRegion, memory.request(**changes))
    os.close(memory.descriptor)
    assert told == reason
    assert words in details


def test_an_ordinary_file_is_refused_unopened(stub: EmbeddingServiceStub, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file:
        file.write(PROOF.ljust(SIZE))
        file.flush()
        told = _refused(stub.RegisterRegion, Memory.request(Memory(), descriptor=file.fileno()))
    assert told[0] == "region"
    assert "has no memfd open as descriptor" in told[1]


def _embed(region: str, offset: int, size: int) -> pb.EmbedRequest:
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=PIXELS.shape, data=PIXELS.tobytes())
    where = tensor_pb2.SharedRange(region=region, offset=offset, size=size)
    return pb.EmbedRequest(items=[pb.Item(pixels=tensor)] * 2, reply=where)


def test_the_server_writes_where_it_is_told_and_nowhere_else(
    stub: EmbeddingServiceStub, memory: Memory
) -> None:
    name = stub.RegisterRegion(memory.request()).region
    reply = stub.Embed(_embed(name, 4096, 2048))
    (first,), (second,) = (result.outputs for result in reply.results)
    assert [first.shared.offset, second.shared.offset] == [4096, 5120]
    assert (first.shared.region, first.shared.size, list(first.shape)) == (name, 1024, [16, 16])
    assert not reply.payloads
    whole = os.pread(memory.descriptor, SIZE, 0)
    assert whole[4096:5120] == whole[5120:6144] != bytes(1024)
    assert whole[len(PROOF) : 4096] + whole[6144:] == bytes(SIZE - 2048 - len(PROOF))
    stub.UnregisterRegion(pb.UnregisterRegionRequest(region=name))
    stub.UnregisterRegion(pb.UnregisterRegionRequest(region=name))
    told = _refused(stub.Embed, _embed(name, 4096, 2048))
    assert told == ("region", f"no region {name!r} is registered with this server")


@pytest.mark.parametrize(
    ("offset", "size", "words"),
    [
        (SIZE - 1024, 2048, f"bytes {SIZE - 1024} to {SIZE + 1024} are not in the region, which has {SIZE}"),
        (2**64 - 64, 2048, "are not in the region"),
        (4096, 2047, "the outputs of 2 images take 2048 bytes of shared memory, and the range has 2047"),
        (4100, 2048, "offset 4100 is no multiple of 64"),
    ],
)
def test_ranges_that_do_not_fit_are_refused_with_their_numbers(
    stub: EmbeddingServiceStub, memory: Memory, offset: int, size: int, words: str
) -> None:
    name = stub.RegisterRegion(memory.request()).region
    reason, details = _refused(stub.Embed, _embed(name, offset, size))
    assert (reason, words in details) == ("region", True), details
    assert os.pread(memory.descriptor, SIZE, len(PROOF)) == bytes(SIZE - len(PROOF))


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:40000", True),
        ("ipv4:127.9.9.9:1", True),
        ("ipv6:%5B::1%5D:40000", True),
        ("ipv6:[::ffff:127.0.0.1]:40000", True),
        ("unix:", True),
        ("unix:/run/vitral.sock", True),
        ("ipv4:10.0.0.1:40000", False),
        ("ipv4:128.127.0.1:40000", False),
        ("ipv6:%5Bfe80::1%5D:40000", False),
        ("ipv6:[::ffff:10.0.0.1]:40000", False),
        ("vsock:2:40000", False),
        ("", False),
    ],
)
def test_only_peers_on_this_machine_are_local(peer: str, local: bool) -> None:
    assert is_local(peer) is local


async def test_a_caller_elsewhere_is_refused_by_name(memory: Memory) -> None:
    with pytest.raises(RegionError, match=r"callers on this machine, and ipv4:10\.0\.0\.1:4 is none"):
        Regions().register(memory.request(), peer="ipv4:10.0.0.1:4")


@pytest.fixture(scope="module")
def spec(small_repo: Path) -> model_pb2.ModelSpec:
    return open_artifact(small_repo / "tiny").spec


@pytest.mark.parametrize("left", [False, True])
async def test_once_the_call_has_ended_nothing_is_written_any_more(
    spec: model_pb2.ModelSpec, left: bool
) -> None:
    memory, wanted = np.zeros(1024, np.uint8), (part(spec, "patch_embeddings"),)
    where = Place(Shared("r", 0, memory), spec, wanted, images=1)
    assembly = Assembly(spec, "1", wanted, images=1, deadline=monotonic() + 9, place=where)
    if left:
        assembly.end(DeadlineError("late"))
        assembly.leave()
    outputs = {"patch_embeddings": np.full((1, 16, 16), 3.5, np.float32)}
    assembly.deliver([(0, 0)], outputs, queue_ms=0.0, run_ms=0.0)
    assert np.array_equal(memory.view(np.float32), np.full(256, 0.0 if left else 3.5, np.float32))
    assert assembly.future.done() is left
    if left:
        assert isinstance(assembly.future.exception(), DeadlineError)
    else:
        assert (
            pb.EmbedResponse.FromString((await assembly.future).message).results[0].outputs[0].shared.size
            == 1024
        )
