"""ModelInfer: the float graph as Triton serves it, image files, and how a call ends."""

from __future__ import annotations

import asyncio
import queue
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import kserving
import numpy as np
import photographs
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from kserving import MODEL, OUTPUTS, noise, same
from serving import Running, running
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

import vitral_engine

IMAGES = f"{MODEL}_image"
PICTURES = [file.read_bytes() for file in photographs.ALL]


@pytest.fixture(scope="module")
def client(kserve_server: Running) -> Iterator[Any]:
    with kserving.client(kserve_server.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(kserve_server: Running) -> Iterator[Any]:
    with kserving.stub(kserve_server.address) as made:
        yield made


@pytest.fixture(scope="module")
def slow(preset_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with room for two images, whose batches wait for a second."""
    log = tmp_path_factory.mktemp("slow") / "server.log"
    args = ("--queue-delay-ms", "1000", "--max-queue-images", "2", "--timeout", "0.5", "--model", MODEL)
    with running(preset_repo, *args, log=log) as server:
        yield server


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_every_output_of_the_float_graph(client: Any, preset_repo: Path, rows: int) -> None:
    batch = noise(rows, seed=rows)
    reply = client.infer(MODEL, kserving.floats(batch), request_id="42", model_version="1")
    for name, want in kserving.truth(preset_repo, batch).items():
        assert same(reply.as_numpy(name), want)
    told = reply.get_response()
    assert (told.model_name, told.model_version, told.id) == (MODEL, "1", "42")
    assert [item.name for item in told.outputs] == sorted(OUTPUTS)
    assert not told.parameters
    assert not any(item.HasField("contents") for item in told.outputs)


def test_a_model_of_tokens(client: Any, preset_repo: Path) -> None:
    model = "position-embedding-2d"
    batch = np.random.default_rng(1).standard_normal((2, 16, 16)).astype(np.float32)
    reply = client.infer(model, kserving.floats(batch, name="patch_embeddings"))
    assert same(reply.as_numpy("embeddings"), kserving.truth(preset_repo, batch, model=model)["embeddings"])


def test_nan_and_inf_pass_through(client: Any, preset_repo: Path) -> None:
    batch = noise(2)
    batch[0, :, :8, :8], batch[0, 0, 8, 8] = np.nan, np.inf
    want = kserving.truth(preset_repo, batch)["embeddings"]
    assert np.isnan(want[0]).any()
    assert not np.isnan(want[1]).any()
    assert same(client.infer(MODEL, kserving.floats(batch)).as_numpy("embeddings"), want)


@pytest.mark.parametrize("names", [["patch_embeddings"], ["patch_embeddings", "embeddings"]])
def test_only_what_was_asked_for(client: Any, preset_repo: Path, names: list[str]) -> None:
    batch = noise(2)
    wanted = [triton.InferRequestedOutput(name) for name in (*names, *names)]
    reply = client.infer(MODEL, kserving.floats(batch), outputs=wanted)
    assert [item.name for item in reply.get_response().outputs] == sorted(names)
    truth = kserving.truth(preset_repo, batch)
    assert all(same(reply.as_numpy(name), truth[name]) for name in names)


def test_typed_contents_are_taken_and_raw_ones_given(stub: Any, preset_repo: Path) -> None:
    batch = noise(2)
    request = kserving.message(batch)
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend(batch.ravel())
    got = kserving.arrays(stub.ModelInfer(request))
    assert same(got["embeddings"], kserving.truth(preset_repo, batch)["embeddings"])


def test_parameters_nobody_knows_are_ignored(client: Any) -> None:
    known = {"sequence_id": 3, "sequence_start": True, "priority": 2, "timeout": 5_000_000}
    reply = client.infer(MODEL, kserving.floats(noise(1)), parameters={"other": "x", "more": 1.5}, **known)
    assert reply.as_numpy("embeddings").shape == (1, 17, 16)


@pytest.mark.parametrize("count", [1, 6, 20])
def test_image_files_come_out_as_the_engine_has_them(client: Any, preset_repo: Path, count: int) -> None:
    chosen = [PICTURES[index % len(PICTURES)] for index in range(count)]
    reply = client.infer(IMAGES, kserving.files(*chosen), request_id="a")
    assert (reply.get_response().model_name, reply.get_response().id) == (IMAGES, "a")
    want = vitral_engine.open(preset_repo / MODEL).embed(chosen, outputs=list(OUTPUTS))
    for name, shape in OUTPUTS.items():
        got = reply.as_numpy(name)
        assert got.shape == (count, *shape)
        assert same(got, np.stack([one.outputs[name] for one in want]))


def test_image_files_as_typed_contents(stub: Any, client: Any) -> None:
    request = pb.ModelInferRequest(model_name=IMAGES)
    taken = request.inputs.add(name="image", datatype="BYTES", shape=[2])
    taken.contents.bytes_contents.extend(PICTURES[:2])
    want = client.infer(IMAGES, kserving.files(*PICTURES[:2])).as_numpy("embeddings")
    assert same(kserving.arrays(stub.ModelInfer(request))["embeddings"], want)


def test_a_bad_image_fails_its_request_by_index(client: Any) -> None:
    images = [*PICTURES[:3], b"no picture", b"", PICTURES[0]]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(IMAGES, kserving.files(*images))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "image 3 of 6: 10 bytes are no image of a known format" in caught.value.message()


def test_the_examples_of_the_page_run(
    kserve_server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parent.parent / "docs" / "kserve.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    code = "\n".join(blocks).replace("127.0.0.1:50051", kserve_server.address)
    code = code.replace('"/rows"', f'"/rows-{uuid4().hex}"')
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(PICTURES[0])
    names: dict[str, Any] = {}
    assert len(blocks) == 3
    exec(code, names)  # noqa: S102  (our own page)
    assert len(names["rows"]) == 4
    names["client"].close()


def test_callbacks(client: Any, preset_repo: Path) -> None:
    done: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for seed in range(12):
        client.async_infer(
            MODEL,
            kserving.floats(noise(2, seed=seed)),
            lambda result, error, seed=seed: done.put((seed, result, error)),
        )
    found = [done.get(timeout=20) for _ in range(12)]
    assert sorted(seed for seed, _, _ in found) == list(range(12))
    for seed, result, error in found:
        assert error is None
        want = kserving.truth(preset_repo, noise(2, seed=seed))["embeddings"]
        assert same(result.as_numpy("embeddings"), want)


async def test_the_asyncio_client(kserve_server: Running, preset_repo: Path) -> None:
    async with triton_aio.InferenceServerClient(kserve_server.address) as client:
        batches = [noise(1, seed=seed) for seed in range(8)]
        calls = [client.infer(MODEL, kserving.floats(batch)) for batch in batches]
        for batch, reply in zip(batches, await asyncio.gather(*calls), strict=True):
            assert same(reply.as_numpy("embeddings"), kserving.truth(preset_repo, batch)["embeddings"])
        with pytest.raises(InferenceServerException, match="unknown model: 'other'"):
            await client.infer("other", kserving.floats(batches[0]))


def test_a_full_queue_is_unavailable(slow: Running) -> None:
    batch = noise(2)
    with kserving.stub(slow.address) as stub:
        first = stub.ModelInfer.future(kserving.message(batch), timeout=20)
        time.sleep(0.2)
        code, told = kserving.refusal(stub.ModelInfer, kserving.message(batch[:1]))
        assert (code, "Exceeds maximum queue size" in told) == ("UNAVAILABLE", True), told
        assert first.result().model_name == MODEL


def test_deadlines_and_cancelled_calls_make_room(slow: Running) -> None:
    batch = noise(2)
    late = kserving.message(batch)
    late.parameters["timeout"].int64_param = 50_000
    with kserving.stub(slow.address) as stub:
        start = time.monotonic()
        code, told = kserving.refusal(stub.ModelInfer, late)
        assert (code, "Request timeout expired" in told) == ("UNAVAILABLE", True), told
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(kserving.message(batch), timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        call = stub.ModelInfer.future(kserving.message(batch), timeout=20)
        time.sleep(0.05)
        call.cancel()
        time.sleep(0.05)
        assert time.monotonic() - start < 0.9, "before the first batch would have run"
        assert stub.ModelInfer(kserving.message(batch), timeout=20).model_name == MODEL
        # Without any deadline the server's own holds.
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(kserving.message(batch))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
