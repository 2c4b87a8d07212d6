"""The thread, end to end: a JPEG's served answer against PyTorch in float64 on transformers' own pixels."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import pytest
import torch
from safetensors.torch import load_file
from serving import Running, running
from transformers.image_utils import load_image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import vitral_engine
from vitral.results import Embedding
from vitral_client import AsyncClient, Client, Prepared
from vitral_engine.measure import budget, errors

Truth = dict[Path, tuple[np.ndarray, Any]]


@pytest.fixture(scope="module")
def server(base_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(base_repo, log=tmp_path_factory.mktemp("log") / "server.log") as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def truth(base_repo: Path) -> Truth:
    """Photograph to its float64 tokens (196, 768) and the budget torch's own float32 error allows."""
    weights = load_file(base_repo / "patch-embedding/1/embedding.safetensors")
    convolution = torch.nn.Conv2d(3, 768, 16, 16)
    convolution.load_state_dict({"weight": weights["projection.weight"], "bias": weights["projection.bias"]})
    found: Truth = {}
    for path in photographs.ALL:
        pixels = ViTImageProcessorPil()(load_image(str(path)), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            single = convolution.float()(pixels).flatten(2).transpose(1, 2).numpy()
            double = convolution.double()(pixels.double()).flatten(2).transpose(1, 2).numpy()
        found[path] = double[0], budget(errors(single, double))
    return found


def _agrees(result: Embedding, truth: Truth, path: Path) -> None:
    expected, allowed = truth[path]
    found = errors(result.patches[None], expected[None])
    assert allowed.holds(found), f"{path.name}: {found} is over {allowed}"
    assert found.rel_l2 < 1e-6


@pytest.mark.parametrize("path", photographs.ALL, ids=lambda path: path.name)
def test_one_photograph_equals_torch(client: Client, truth: Truth, path: Path) -> None:
    result = client.embed(path)
    assert result.patches.shape == (196, 768)
    assert result.patch_grid.shape == (14, 14, 768)
    assert result.timings.batch_size == 1
    _agrees(result, truth, path)


def test_the_prepared_door_goes_through_the_float_graph(client: Client, truth: Truth) -> None:
    for path in photographs.ALL:
        pixels = ViTImageProcessorPil()(load_image(str(path)), return_tensors="np")["pixel_values"][0]
        _agrees(client.embed(Prepared(pixels)), truth, path)


def test_all_doors_in_one_request(client: Client, truth: Truth) -> None:
    path = photographs.COFFEE
    picture = load_image(str(path))
    prepared = Prepared(ViTImageProcessorPil()(picture, return_tensors="np")["pixel_values"][0])
    for result in client.embed([path, prepared, np.asarray(picture), path.read_bytes(), picture]):
        _agrees(result, truth, path)


def test_mixed_concurrent_batches_equal_torch(base_repo: Path, tmp_path: Path, truth: Truth) -> None:
    def call(client: Client, number: int) -> int:
        random = np.random.default_rng(number)
        paths = [photographs.ALL[i] for i in random.integers(0, len(photographs.ALL), random.integers(1, 6))]
        results = client.embed(paths)
        for path, result in zip(paths, results, strict=True):
            _agrees(result, truth, path)
        return max(result.timings.batch_size for result in results)

    # The delay lets the queue fill, so that requests share batches on any machine.
    with (
        running(base_repo, "--queue-delay-ms", "40", "--instances", "1", log=tmp_path / "log") as server,
        Client(server.address) as client,
        ThreadPoolExecutor(12) as pool,
    ):
        sizes = list(pool.map(partial(call, client), range(60)))
    assert max(sizes) > 5, "no batch held more than one request"


def test_a_request_larger_than_a_batch(client: Client, truth: Truth) -> None:
    paths = [photographs.ALL[i % len(photographs.ALL)] for i in range(75)]
    for path, result in zip(paths, client.embed(paths), strict=True):
        _agrees(result, truth, path)


def test_float16_is_the_cast_of_float32(client: Client) -> None:
    full = client.embed(photographs.ROCKET)
    half = client.embed(photographs.ROCKET, dtype="float16")
    assert half.patches.dtype == np.float16
    assert np.array_equal(half.patches, full.patches.astype(np.float16))


def test_in_process_and_served_agree_bit_for_bit(client: Client, base_repo: Path) -> None:
    model = vitral_engine.open(base_repo / "patch-embedding", device="cpu")
    for path in photographs.JPEGS:
        ours = model.embed([path])[0]
        served = client.embed(path)
        assert np.abs(ours.patches - served.patches).max() <= 1e-6
        assert ours.fingerprint == served.fingerprint


async def test_the_asyncio_client_gives_the_same(server: Running, truth: Truth) -> None:
    async with AsyncClient(server.address) as client:
        for path, result in zip(photographs.JPEGS, await client.embed(list(photographs.JPEGS)), strict=True):
            _agrees(result, truth, path)


def test_one_line_a_request(client: Client, server: Running) -> None:
    before = len(server.lines("embed"))
    client.embed(photographs.ROCKET)
    line = server.lines("embed")[-1]
    assert len(server.lines("embed")) == before + 1
    assert line["code"] == "OK"
    assert line["model"] == "patch-embedding"
    assert line["images"] == 1
    assert line["bytes_in"] > photographs.ROCKET.stat().st_size
    assert line["bytes_out"] > 196 * 768 * 4
    assert line["ms"] >= line["run_ms"] > 0
