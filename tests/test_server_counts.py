"""What a reply costs, in counts that do not depend on how busy a machine is.

Instructions, fresh pages and peaks of memory are the same on a quiet machine and a loaded one. A bound is
what was counted when it was written and not quite half a tensor more: one further copy crosses it.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import photographs
import pytest
from PIL import Image
from serving import Running, running

from vitral import framing
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_client import Client, reply
from vitral_client.request import Request, Wish

NAME, OUTPUT = "patch-embedding", "patch_embeddings"
VALUES = 196 * 768
"""Of one reply."""

FRESH = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Every larger block comes from the kernel, page by page as it is written, and goes back there.

So each page that is faulted in is one page of one more buffer, whether Python, NumPy or C++ has made it.
"""

CALLS = 40
HEADER = pb.EmbedResponse(model=NAME, version="1").SerializeToString()
PIXELS = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="glibc alone can be told to take every buffer from the kernel"
)
needs_valgrind = pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="valgrind is not installed: instructions cannot be counted"
)


@pytest.fixture(scope="module")
def server(base_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(base_repo, log=tmp_path_factory.mktemp("plain") / "log") as started:
        yield started


@pytest.fixture(scope="module")
def fresh(base_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that takes each large buffer from the kernel."""
    with running(base_repo, log=tmp_path_factory.mktemp("fresh") / "log", environ=FRESH) as started:
        yield started


def _faults(pid: int) -> int:
    """Pages that the process has had to be given, none of them read from a disk."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def _pages_a_call(server: Running, dtype: str) -> float:
    """Pages that the server takes for one call, in its steady state."""
    with Client(server.address) as client:

        def calls() -> None:
            for _ in range(CALLS):
                client.embed(PIXELS, model=NAME, dtype=dtype)

        calls()
        before = _faults(server.process.pid)
        calls()
    return (_faults(server.process.pid) - before) / CALLS


def _bare(address: str, dtype: tensor_pb2.DataType.ValueType = tensor_pb2.DATA_TYPE_FLOAT32) -> bytes:
    """A reply as gRPC gives it."""
    outputs = [pb.OutputRequest(name=OUTPUT, dtype=dtype)]
    request = pb.EmbedRequest(items=[pb.Item(encoded=photographs.ROCKET.read_bytes())], outputs=outputs)
    with grpc.insecure_channel(address) as channel:
        call: Callable[[bytes], bytes] = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")
        return call(request.SerializeToString())


@needs_glibc
@pytest.mark.parametrize(("dtype", "size", "bound"), [("float32", 4, 4.0), ("float16", 2, 6.6)])
def test_buffers_that_the_server_makes_for_a_call(
    fresh: Running, dtype: str, size: int, bound: float
) -> None:
    pages = _pages_a_call(fresh, dtype)
    tensors = pages * os.sysconf("SC_PAGE_SIZE") / (VALUES * size)
    # float32: the reply and gRPC's own copy of it are 2; what came in, and its pixels, are the rest.
    assert tensors > 1, "the reply itself is one: nothing was counted"
    assert tensors < bound, f"a {dtype} call takes {tensors:.2f} times its reply in fresh memory"


def test_pages_that_the_server_takes_for_a_call(server: Running) -> None:
    pages = _pages_a_call(server, "float32")
    assert pages < 20, f"{pages:.1f} pages a call: buffers of {VALUES * 4 // 4096} pages are not used again"


_CLIENT = """
import json, resource, sys
import grpc
from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import Client

address, data, calls = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3])

def pages(call):
    for _ in range(calls):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / calls

message = pb.EmbedRequest(items=[pb.Item(encoded=data)]).SerializeToString()
with grpc.insecure_channel(address) as channel:
    bare = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")
    transport = pages(lambda: bare.future(message).result())
with Client(address) as client:
    ours = pages(lambda: client.embed(data))
print(json.dumps([transport, ours]))
"""


def _small() -> bytes:
    """A picture whose request takes no large buffer."""
    made = io.BytesIO()
    Image.fromarray(PIXELS[:32, :32]).save(made, "JPEG")
    return made.getvalue()


@needs_glibc
def test_the_client_makes_no_buffer_after_the_transport_has_made_its_own(server: Running) -> None:
    line = [sys.executable, "-c", _CLIENT, server.address, _small().hex(), str(CALLS)]
    done = subprocess.run(line, env={**os.environ, **FRESH}, capture_output=True, text=True, check=True)
    transport, ours = json.loads(done.stdout)
    tensor = VALUES * 4 / os.sysconf("SC_PAGE_SIZE")
    assert transport > tensor, "the reply itself is as many pages: nothing was counted"
    assert ours - transport < 0.4 * tensor, f"{ours:.0f} pages a call, a bare call takes {transport:.0f}"


@pytest.mark.parametrize("dtype", [tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_FLOAT16])
def test_arrays_are_the_bytes_of_the_reply(server: Running, dtype: tensor_pb2.DataType.ValueType) -> None:
    with Client(server.address) as client:
        spec = client.model(NAME).spec
    data = _bare(server.address, dtype)
    [result] = reply.results(reply.parse(data), Request(b"", [0], {}), Wish(), spec)
    array = result.outputs[OUTPUT]  # type: ignore[union-attr]
    assert array.nbytes > len(data) - 1000
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


def test_what_embed_returns_is_a_view_of_one_whole_message(server: Running) -> None:
    with Client(server.address) as client:
        array = client.embed(photographs.ROCKET).patches
    under = array
    while isinstance(under, np.ndarray):
        under = under.base  # type: ignore[assignment]
    message = under.obj if isinstance(under, memoryview) else under
    assert isinstance(message, bytes)
    assert len(message) > array.nbytes, "the header is missing: these bytes were cut out"
    framing.split(message)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_framing_copies_each_tensor_once(dtype: type) -> None:
    payloads = [np.ones((196, 768), dtype) for _ in range(3)]
    whole = sum(payload.nbytes for payload in payloads)

    def peak(work: Callable[[], object]) -> float:
        tracemalloc.start()
        try:
            kept = work()
            found = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        del kept
        return found / whole

    message = framing.join(HEADER, payloads)
    joined, split = peak(lambda: framing.join(HEADER, payloads)), peak(lambda: framing.split(message))
    assert 1 <= joined < 1.1, f"{joined:.2f} times the bytes of the tensors at once"
    assert split < 0.1, f"{split:.2f} times the bytes of the tensors at once"


_FRAMING = """
import os
from vitral import framing

header, payload = bytes.fromhex("0a0574696e79") * 8, memoryview(bytes(602112))
message = framing.join(header, [payload])
works = (
    lambda: b"".join((header, payload)),
    lambda: framing.join(header, [payload]),
    lambda: framing.split(message),
)
for work in works:
    for calls in (1, 1, 101):
        os.getppid()  # what was counted so far is written, and the count begins anew
        for _ in range(calls):
            work()
os.getppid()
"""


@needs_valgrind
def test_instructions_of_framing(tmp_path: Path) -> None:
    grind = ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={tmp_path}/out"]
    environ = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run([*grind, sys.executable, "-c", _FRAMING], env=environ, capture_output=True, check=True)
    counts = [_instructions(tmp_path / f"out.{number}") for number in range(2, 11)]
    copy, join, split = ((counts[last] - counts[last - 1]) / 100 for last in (2, 5, 8))
    assert copy > 602_112 / 64, "the copy itself takes more: nothing was counted"
    # Counted with Python 3.11: 10,000 beside the copy, and 53,000 for a header of eight fields.
    assert join - copy < 0.4 * copy, f"join: {join:.0f} instructions, the copy alone {copy:.0f}"
    assert split < 120_000, f"split: {split:.0f} instructions"


def _instructions(file: Path) -> int:
    found = re.search(r"^summary: (\d+)", file.read_text(), flags=re.MULTILINE)
    assert found, f"{file.name} has no summary"
    return int(found[1])
