"""ModelStreamInfer: many requests on one stream, answered in order, each for itself."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import kserving
import numpy as np
import photographs
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from kserving import MODEL, message, noise, same
from serving import Running, running

from vitral_server.stream import IN_FLIGHT

ROCKET = photographs.ROCKET.read_bytes()


@pytest.fixture(scope="module")
def stub(kserve_server: Running) -> Iterator[Any]:
    with kserving.stub(kserve_server.address) as made:
        yield made


def test_replies_keep_the_order_and_an_error_is_its_requests_own(stub: Any, preset_repo: Path) -> None:
    slow = kserving.pb.ModelInferRequest(model_name=f"{MODEL}_image", id="images")
    slow.inputs.extend(one._get_tensor() for one in kserving.files(*[ROCKET] * 16))
    slow.raw_input_contents.extend(one._get_content() for one in kserving.files(*[ROCKET] * 16))
    batch, late = noise(2), message(noise(1), id="late")
    late.parameters["timeout"].int64_param = 1
    final = message(batch, id="final")
    final.parameters["triton_enable_empty_final_response"].bool_param = True
    sent = [slow, message(batch, id="a"), message(batch, id="b", outputs=["zz"]), late, final]
    sent += [message(batch, id="c", model_name="other"), message(batch)]
    replies = list(stub.ModelStreamInfer(iter(sent), timeout=20))
    assert [one.infer_response.id for one in replies] == ["images", "a", "b", "late", "final", "c", ""]
    told = [one.error_message for one in replies]
    assert [bool(text) for text in told] == [False, False, True, True, False, True, False]
    assert told[2] == "unexpected inference output 'zz' for model 'vit-embedding'"
    assert "Request timeout expired" in told[3]
    assert told[5] == "Request for unknown model: 'other' is not found"
    want = kserving.truth(preset_repo, batch)
    for one in replies[1], replies[4], replies[6]:
        assert one.infer_response.parameters["triton_final_response"].bool_param
        got = kserving.arrays(one.infer_response)
        assert all(same(got[name], want[name]) for name in want)
    assert len(replies[0].infer_response.raw_output_contents[0]) == 16 * 17 * 16 * 4


def test_an_empty_stream_ends(stub: Any) -> None:
    assert list(stub.ModelStreamInfer(iter([]), timeout=20)) == []
    replies = list(stub.ModelStreamInfer(iter([kserving.pb.ModelInferRequest()]), timeout=20))
    assert [one.error_message for one in replies] == ["Request for unknown model: '' is not found"]


def test_more_requests_than_may_be_in_work(stub: Any, preset_repo: Path) -> None:
    batches = [noise(1, seed=seed) for seed in range(2 * IN_FLIGHT + 3)]
    sent = (message(batch, outputs=["embeddings"]) for batch in batches)
    replies = list(stub.ModelStreamInfer(sent, timeout=30))
    got = np.concatenate([kserving.arrays(one.infer_response)["embeddings"] for one in replies])
    assert same(got, kserving.truth(preset_repo, np.concatenate(batches))["embeddings"])


@pytest.mark.parametrize("final", [False, True])
def test_the_client_of_triton(kserve_server: Running, preset_repo: Path, final: bool) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with kserving.client(kserve_server.address) as client:
        client.start_stream(lambda result, error: done.put((result, error)))
        for seed in range(5):
            client.async_stream_infer(
                MODEL,
                kserving.floats(noise(1, seed=seed)),
                request_id=str(seed),
                enable_empty_final_response=final,
            )
        client.async_stream_infer(MODEL, [triton.InferInput("pixel_values", [1], "FP32")])
        found = [done.get(timeout=20) for _ in range(6)]
        client.stop_stream()
    assert "unable to find data" in found.pop()[1].message()
    for seed, (result, error) in enumerate(found):
        assert error is None
        assert result.get_response().id == str(seed)
        want = kserving.truth(preset_repo, noise(1, seed=seed))["embeddings"]
        assert same(result.as_numpy("embeddings"), want)


async def test_the_asyncio_client(kserve_server: Running) -> None:
    async def asked() -> AsyncIterator[dict[str, Any]]:
        for seed in range(4):
            inputs = kserving.floats(noise(2, seed=seed))
            yield {"model_name": MODEL, "inputs": inputs, "request_id": str(seed)}

    async with triton_aio.InferenceServerClient(kserve_server.address) as client:
        found = [one async for one in client.stream_infer(asked())]
    assert [result.get_response().id for result, _ in found] == list("0123")
    assert all(error is None for _, error in found)


def test_a_caller_that_leaves_harms_nobody(preset_repo: Path, tmp_path: Path) -> None:
    args = ("--model", MODEL, "--max-queue-images", "8")
    with running(preset_repo, *args, log=tmp_path / "log") as server, kserving.stub(server.address) as stub:
        for _ in range(5):
            endless = iter(lambda: message(noise(4)), None)
            stream = stub.ModelStreamInfer(endless, timeout=20)
            assert not next(stream).error_message
            stream.cancel()
        for _ in range(50):
            code, told = kserving.refusal(stub.ModelInfer, message(noise(8)))
            if code == "OK":
                break
            time.sleep(0.1)
        assert code == "OK", told
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text(), server.log.read_text()[-2000:]


def test_a_drain_answers_what_was_sent_and_ends_the_stream(preset_repo: Path, tmp_path: Path) -> None:
    go, found = threading.Event(), []

    def asked() -> Iterator[Any]:
        for number in range(3):
            yield message(noise(1), id=str(number))
        go.wait(20)  # idle, and open

    args = ("--model", MODEL, "--queue-delay-ms", "600", "--drain-delay", "0.1")
    with running(preset_repo, *args, log=tmp_path / "log") as server, kserving.stub(server.address) as stub:
        stream = stub.ModelStreamInfer(asked(), timeout=20)
        time.sleep(0.3)
        server.process.terminate()
        with pytest.raises(grpc.RpcError) as caught:
            found.extend(one for one in stream)
        assert server.process.wait(20) == 0
        go.set()
    assert [one.infer_response.id for one in found] == ["0", "1", "2"]
    assert all(one.infer_response.raw_output_contents for one in found)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "draining" in caught.value.details()
