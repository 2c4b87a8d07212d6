"""Messages and callers that mean harm: each costs the server little, and nobody else anything."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import photographs
import pytest
from grpc_health.v1 import health_pb2
from PIL import Image
from serving import Running, running

from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from vitral_engine.artifact import open_artifact
from vitral_server.health import Servicer

JPEG = photographs.ROCKET.read_bytes()
GOOD = pb.Item(encoded=JPEG)
UINT8 = tensor_pb2.DATA_TYPE_UINT8
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(small_repo, log=tmp_path_factory.mktemp("log") / "server.log") as started:
        yield started


@pytest.fixture(scope="module")
def channel(server: Running) -> Iterator[grpc.Channel]:
    unlimited = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, unlimited) as opened:
        yield opened


def _resident(server: Running) -> int:
    """Resident memory of the server in MiB."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") // MIB


def _refused(channel: grpc.Channel, method: str, data: bytes) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/vitral.v1.EmbeddingService/{method}")(data, timeout=20)
    return caught.value.code().name, caught.value.details() or ""


@pytest.mark.parametrize(
    "data",
    [b"\x7a\x00" * MIB, b"\x1a\x00" * MIB, b"\x22\x00" * MIB, b"\x48\x01" * MIB],
    ids=["payloads", "items", "outputs", "unknown"],
)
def test_millions_of_empty_fields_cost_nothing(server: Running, channel: grpc.Channel, data: bytes) -> None:
    before = _resident(server)
    code, said = _refused(channel, "Embed", data * 4)
    assert code == "INVALID_ARGUMENT"
    assert "more than" in said
    assert _resident(server) - before < 100
    assert server.lines("embed")[-1]["ms"] < 1000


def test_too_many_outputs_are_refused_before_the_run(channel: grpc.Channel) -> None:
    request = pb.EmbedRequest(items=[GOOD], outputs=[pb.OutputRequest(name="patch_embeddings")] * 65)
    code, said = _refused(channel, "Embed", request.SerializeToString())
    assert (code, "names 65 outputs; the limit is 64" in said) == ("INVALID_ARGUMENT", True)


@pytest.mark.parametrize(
    "shape",
    [[1] * 60_000, [1] * 65, [2**62] * 300, [0, 2**62, 2**62], [0, 2**31 - 1, 2**31 - 1, 2**31 - 1]],
    ids=["long", "65 axes", "huge", "zero", "none"],
)
def test_impossible_shapes_fail_their_own_item(channel: grpc.Channel, shape: list[int]) -> None:
    bad = pb.Item(pixels=tensor_pb2.Tensor(dtype=UINT8, shape=shape, data=b""))
    reply = EmbeddingServiceStub(channel).Embed(pb.EmbedRequest(items=[bad, GOOD]), timeout=5)
    assert reply.results[0].error.reason in ("tensor", "shape")
    assert len(reply.results[0].error.message) < 500
    assert reply.results[1].outputs


@pytest.mark.parametrize("method", ["GetModel", "ListModels", "GetServerInfo", "Embed"])
def test_malformed_messages_are_our_own_to_answer(channel: grpc.Channel, method: str) -> None:
    code, said = _refused(channel, method, b"\xff\xff\xff")
    assert (code, "malformed" in said) == ("INVALID_ARGUMENT", True)


@pytest.mark.parametrize("name", ["😀" * 2000, "%" * 5000, "x" * MIB])
def test_long_names_come_back_cut(server: Running, channel: grpc.Channel, name: str) -> None:
    code, said = _refused(channel, "GetModel", pb.GetModelRequest(model=name).SerializeToString())
    assert code == "NOT_FOUND"
    assert said.startswith("no model")
    assert len(said) < 4100
    assert len(server.lines("get_model")[-1]["reason"]) <= 500


def test_a_jpeg_of_endless_scans_is_refused(channel: grpc.Channel) -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 200 + data[-2:]
    reply = EmbeddingServiceStub(channel).Embed(
        pb.EmbedRequest(items=[pb.Item(encoded=bomb), GOOD]), timeout=5
    )
    assert "scans, over the limit of 100" in reply.results[0].error.message
    assert reply.results[1].outputs


@pytest.mark.parametrize("shape", [(1, 70_000, 3), (70_000, 1, 3)])
def test_sides_are_limited(channel: grpc.Channel, shape: tuple[int, ...]) -> None:
    strip = np.zeros(shape, np.uint8)
    out = io.BytesIO()
    Image.fromarray(strip).save(out, "PNG")
    tensor = tensor_pb2.Tensor(dtype=UINT8, shape=shape, data=strip.tobytes())
    items = [pb.Item(encoded=out.getvalue()), pb.Item(pixels=tensor), GOOD]
    reply = EmbeddingServiceStub(channel).Embed(pb.EmbedRequest(items=items), timeout=5)
    assert [result.error.reason for result in reply.results] == ["too_many_pixels", "too_many_pixels", ""]


def test_the_limit_of_pixels_holds_for_those_that_need_no_resize(small_repo: Path, tmp_path: Path) -> None:
    size = open_artifact(small_repo / "tiny").spec.preprocessing.size
    height, width = size.height, size.width
    tensor = tensor_pb2.Tensor(dtype=UINT8, shape=(height, width, 3), data=bytes(height * width * 3))
    limit = str(height * width - 1)
    with (
        running(small_repo, "--max-image-pixels", limit, log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        reply = EmbeddingServiceStub(channel).Embed(
            pb.EmbedRequest(items=[pb.Item(pixels=tensor)]), timeout=5
        )
    assert f"over the limit of {limit} pixels" in reply.results[0].error.message


@pytest.mark.parametrize("kind", ["unknown model", "bad image"])
def test_refused_requests_leave_no_memory_behind(server: Running, channel: grpc.Channel, kind: str) -> None:
    item = pb.Item(encoded=bytes(24 * MIB))
    model = "other" if kind == "unknown model" else "tiny"
    message = pb.EmbedRequest(items=[item], model=model).SerializeToString()
    call = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")

    def once() -> None:
        if kind == "bad image":
            reply = pb.EmbedResponse.FromString(call(message, timeout=20))
            assert reply.results[0].error.reason == "format"
        else:
            assert _refused(channel, "Embed", message)[0] == "NOT_FOUND"

    once()
    once()
    before = _resident(server)
    for _ in range(12):
        once()
    assert _resident(server) - before < 120


def test_callers_that_leave_leave_no_memory_behind_while_others_are_decoded(
    small_repo: Path, tmp_path: Path
) -> None:
    out = io.BytesIO()
    Image.new("RGB", (4000, 4000), "red").save(out, "PNG")
    busy = pb.EmbedRequest(items=[pb.Item(encoded=out.getvalue())] * 200).SerializeToString()
    large = pb.EmbedRequest(items=[pb.Item(encoded=bytes(24 * MIB))]).SerializeToString()
    with (
        running(small_repo, "--decode-threads", "1", "--grace", "0", log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        call = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")
        held = call.future(busy, timeout=120)
        time.sleep(0.5)
        before = 0
        for left in range(1, 16):
            leaving = call.future(large, timeout=60)
            time.sleep(0.3)
            leaving.cancel()
            deadline = time.monotonic() + 2
            while len(server.lines("embed")) < left and time.monotonic() < deadline:
                time.sleep(0.01)
            if left <= 3:  # decoding swings by a picture's size: its highest before, its lowest after
                before = max(before, *_samples(server))
        assert [line["code"] for line in server.lines("embed")].count("CANCELLED") >= 8
        assert not held.done(), "the one decoding thread was not busy"
        assert min(_samples(server)) - before < 150
        held.cancel()


def _samples(server: Running) -> list[int]:
    """Resident MiB, some times over a second."""
    found = []
    for _ in range(10):
        found.append(_resident(server))
        time.sleep(0.1)
    return found


async def test_a_watcher_that_does_not_read_holds_nobody_up() -> None:
    class Deaf:
        async def write(self, _: Any) -> None:
            await asyncio.Event().wait()

    class Hears:
        def __init__(self) -> None:
            self.heard: list[int] = []

        async def write(self, reply: health_pb2.HealthCheckResponse) -> None:
            self.heard.append(reply.status)

    servicer, hears = Servicer(), Hears()
    servicer.set("", serving=True)
    request = health_pb2.HealthCheckRequest()
    watches = [asyncio.create_task(servicer.Watch(request, context)) for context in (Deaf(), hears)]
    await asyncio.sleep(0.01)
    servicer.set_all_not_serving()
    await asyncio.sleep(0.01)
    assert hears.heard == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    servicer.end()
    await asyncio.wait_for(watches[1], 1)
    watches[0].cancel()


def test_sigterm_while_loading_ends_it_at_once(small_repo: Path) -> None:
    code = (
        "import sys, time, vitral_server.app as app; from vitral_server.__main__ import main; "
        "app._load = lambda *_: time.sleep(60); sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--repo", str(small_repo), "--port", "0", "--log-level", "info"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(3)  # imports take one, the load a minute
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "serving" not in out
    assert "stopped while loading" in errors


def test_the_server_is_well_after_all_that(server: Running, channel: grpc.Channel) -> None:
    stub = EmbeddingServiceStub(channel)
    assert stub.Embed(pb.EmbedRequest(items=[GOOD] * 200), timeout=20).payloads
    assert "Traceback" not in server.log.read_text()
