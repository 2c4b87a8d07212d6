"""ModelStatistics: what is counted, and that its parts fit into the whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any

import kserving
import photographs
import pytest
from kserving import MODEL, message, noise
from serving import Running, running
from tritonclient.grpc import service_pb2 as pb

from vitral.results import Timings
from vitral_server.kserve.catalogue import Entry
from vitral_server.kserve.statistics import Statistics
from vitral_server.registry import Served

ENTRY = Entry("m", Served("m", "1"), None)
STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture(scope="module")
def server(preset_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("statistics") / "server.log"
    with running(preset_repo, "--instances", "1", "--max-queue-images", "16", log=log) as started:
        yield started


def _ns(one: Any, *names: str) -> int:
    return sum(getattr(one.inference_stats, name).ns for name in names)


def test_requests_images_and_runs_are_counted(server: Running) -> None:
    with kserving.client(server.address) as client, kserving.stub(server.address) as stub:
        for rows in (1, 1, 4):
            stub.ModelInfer(message(noise(rows)))
        for request in (message(noise(17)), message(noise(1), outputs=["zz"])):
            assert kserving.refusal(stub.ModelInfer, request)[0] != "OK"
        list(stub.ModelStreamInfer(iter([message(noise(8))])))
        [one] = client.get_inference_statistics(MODEL, "1").model_stats
        assert (one.name, one.version) == (MODEL, "1")
        assert (one.inference_count, one.execution_count) == (14, 4)
        assert [(item.batch_size, item.compute_infer.count) for item in one.batch_stats] == [
            (1, 2),
            (4, 1),
            (8, 1),
        ]
        assert abs(one.last_inference / 1e3 - time()) < 60
        stats = one.inference_stats
        assert (stats.success.count, stats.fail.count) == (4, 1)  # what names no output is no inference
        assert all(getattr(stats, name).count == 4 for name in STAGES)
        assert 0 < _ns(one, "compute_infer") <= _ns(one, *STAGES) <= _ns(one, "success")
        assert sum(item.compute_infer.ns for item in one.batch_stats) == pytest.approx(
            _ns(one, "compute_infer"), rel=0.01
        )


def test_image_files_are_counted_apart_with_their_decoding(server: Running) -> None:
    data = photographs.ROCKET.read_bytes()
    with kserving.client(server.address) as client:
        client.infer(f"{MODEL}_image", kserving.files(*[data] * 6))
        [one] = client.get_inference_statistics(f"{MODEL}_image").model_stats
        every = client.get_inference_statistics("", "7").model_stats  # without a name, of all
    assert (one.inference_count, one.inference_stats.success.count) == (6, 1)
    assert one.inference_stats.compute_input.ns > 0
    assert _ns(one, *STAGES) <= _ns(one, "success")
    assert {(item.name, item.version) for item in every} >= {(MODEL, "1"), ("patch-embedding", "1")}


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("other", "", "requested model 'other' is not available"),
        (MODEL, "7", "requested model version is not available for model 'vit-embedding'"),
        (MODEL, "x", "version should be an integral value > 0"),
    ],
)
def test_what_is_not_counted(server: Running, name: str, version: str, words: str) -> None:
    with kserving.stub(server.address) as stub:
        request = pb.ModelStatisticsRequest(name=name, version=version)
        code, told = kserving.refusal(stub.ModelStatistics, request)
    assert (code, words in told) == ("INVALID_ARGUMENT", True), told


def test_parts_of_many_threads_are_cut_to_the_whole() -> None:
    counted = Statistics()
    timings = Timings(decode_ms=30, preprocess_ms=10, queue_ms=2, run_ms=5, encode_ms=1, total_ms=20)
    counted.succeeded(ENTRY, timings, images=8, runs=[(4, 3.0), (4, 2.0)])
    counted.failed(ENTRY, 7.0)
    [one] = counted.tell([ENTRY]).model_stats
    stats = one.inference_stats
    found = [getattr(stats, name).ns / 1e6 for name in STAGES]
    assert found == [2, 12, 5, 1]
    assert (stats.success.ns, stats.fail.ns) == (20_000_000, 7_000_000)
    [batch] = one.batch_stats
    assert (batch.batch_size, batch.compute_infer.count, batch.compute_infer.ns) == (4, 2, 5_000_000)
    assert (batch.compute_input.ns, batch.compute_output.ns) == (12_000_000, 1_000_000)


def test_a_model_that_was_never_asked_has_zeros() -> None:
    [one] = Statistics().tell([ENTRY]).model_stats
    assert one.inference_stats.HasField("success")
    assert (one.inference_count, one.execution_count, len(one.batch_stats)) == (0, 0, 0)
