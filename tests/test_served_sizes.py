"""A model of dynamic size, served: each caller gets the size it asked for, of its own picture."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from serving import Running, running
from sized_module import NAME

import vitral_engine
from vitral import dynamic, sizes
from vitral.errors import ImageError, InvalidArgumentError
from vitral.results import Embedding
from vitral.selection import Selection
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_client import AsyncClient, Client, Prepared
from vitral_engine.engine import Model

NATIVE, SIZES = (32, 32), [(32, 32), (16, 48), (48, 16), (64, 64), (8, 40), (40, 24)]
RANGE = "model sized takes 8 x 8 to 64 x 64, each side a multiple of its patch's 8 x 8"
TOKENS = ["tokens", "pooled"]


@pytest.fixture(scope="module")
def server(sized_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(sized_repo, log=tmp_path_factory.mktemp("sizes") / "server.log") as found:
        yield found


@pytest.fixture(scope="module")
def engine(sized_repo: Path) -> Model:
    return vitral_engine.open(sized_repo / NAME, device="cpu")


@pytest.fixture(scope="module", params=["grpc", "shm"])
def client(server: Running, request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(server.address, transport=request.param) as made:
        yield made


def picture(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (*random.integers(20, 90, 2), 3), dtype=np.uint8)


def row(size: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, *size)).astype(np.float32)


def same(got: Embedding | ImageError, want: Embedding) -> None:
    assert isinstance(got, Embedding), got
    assert got.grid == want.grid
    assert list(got.outputs) == list(want.outputs)
    for name, array in want.outputs.items():
        np.testing.assert_allclose(got.outputs[name], array, rtol=0, atol=1e-5)


def of_rows(engine: Model, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The tokens of each row, run alone."""
    return [engine.sessions["model.onnx"].run(one[None])["tokens"][0] for one in rows]


@pytest.mark.parametrize("delay", ["0", "20"], ids=["as they come", "in batches"])
async def test_a_burst_of_all_sizes_gives_each_caller_its_own(
    sized_repo: Path, engine: Model, tmp_path: Path, delay: str
) -> None:
    asked = [(SIZES[number % len(SIZES)], picture(number)) for number in range(120)]
    with running(sized_repo, "--queue-delay-ms", delay, log=tmp_path / "server.log") as server:
        async with AsyncClient(server.address) as client:
            calls = [client.embed(pixels, outputs=TOKENS, size=size) for size, pixels in asked]
            found = await asyncio.gather(*calls)
    for (size, pixels), got in zip(asked, found, strict=True):
        assert got.grid == (size[0] // 8, size[1] // 8)
        same(got, engine.embed([pixels], outputs=TOKENS, size=size)[0])
    largest = max(got.timings.batch_size for got in found)
    assert delay == "0" or 1 < largest <= 8
    assert all(
        got.timings.batch_size <= 2 for got in found if got.grid == (8, 8)
    )  # as many pixels as 8 of 32


def test_no_size_is_the_native_one(client: Client, engine: Model) -> None:
    want = engine.embed([picture(1)])[0]
    assert want.grid == (4, 4)
    same(client.embed(picture(1)), want)
    same(client.embed(picture(1), size=NATIVE), want)


@pytest.mark.parametrize("size", [(20, 32), (32, 31), (72, 32), (32, 128), (4, 8), (2**32 - 8, 8)])
def test_other_sizes_are_refused_with_the_numbers(
    client: Client, engine: Model, size: tuple[int, int]
) -> None:
    words = f"size {size[0]} x {size[1]} was asked for, but {RANGE}"
    with pytest.raises(InvalidArgumentError, match=words):
        client.embed(picture(0), size=size)
    with pytest.raises(InvalidArgumentError, match=words):
        list(client.embed_stream([picture(0)], size=size))
    with pytest.raises(InvalidArgumentError, match=words):
        list(client.embed_iter([picture(0)], size=size))
    with pytest.raises(InvalidArgumentError, match=words):
        engine.embed([picture(0)], size=size)


def test_prepared_rows_say_their_size_each(client: Client, engine: Model) -> None:
    rows = [row(size, number) for number, size in enumerate([*SIZES, (16, 48)])]
    bad = [row((20, 32), 0), row((72, 64), 0), np.zeros((1, 32, 32), np.float32)]
    images = [Prepared(one) for one in (*rows[:3], *bad, *rows[3:])]
    found = client.embed([*images, picture(2)], errors="return")
    good = [one for one in found if isinstance(one, Embedding)]
    for one, got, want in zip(rows, good, of_rows(engine, rows), strict=False):
        assert got.grid == (one.shape[1] // 8, one.shape[2] // 8)
        np.testing.assert_allclose(got.outputs["tokens"], want, rtol=0, atol=1e-5)
    same(good[-1], engine.embed([picture(2)])[0])
    words = [str(one) for one in found if isinstance(one, ImageError)]
    assert f"prepared is of 20 x 32: size 20 x 32 was asked for, but {RANGE}" in words[0]
    assert "prepared is of 72 x 64: " in words[1]
    assert "prepared is 1 x 32 x 32 float32; 3 x 32 x 32 float32 is needed" in words[2]


def test_a_row_must_be_of_the_size_that_is_asked_for(client: Client) -> None:
    with pytest.raises(ImageError, match="prepared is 3 x 32 x 32 float32; 3 x 16 x 48 float32 is needed"):
        client.embed(Prepared(row(NATIVE, 0)), size=(16, 48))


@pytest.mark.parametrize("ordered", [True, False])
def test_replies_of_mixed_sizes_in_a_stream(client: Client, engine: Model, ordered: bool) -> None:
    rows = [row(SIZES[number % len(SIZES)], number) for number in range(30)]
    want = of_rows(engine, rows)
    found = dict(client.embed_stream(map(Prepared, rows), ordered=ordered))
    for number, got in found.items():
        assert isinstance(got, Embedding)
        assert got.grid == (rows[number].shape[1] // 8, rows[number].shape[2] // 8)
        np.testing.assert_allclose(got.outputs["tokens"], want[number], rtol=0, atol=1e-5)
    assert len(found) == 30
    pictures = [picture(number) for number in range(6)]
    streamed = dict(client.embed_stream(pictures, size=(16, 48)))
    for number, want_one in enumerate(engine.embed(pictures, size=(16, 48))):
        same(streamed[number], want_one)


def test_views_are_of_the_grid_of_that_size(client: Client, engine: Model) -> None:
    whole = engine.embed([picture(3)], size=(16, 48))[0]
    tokens, patches = whole.outputs["tokens"], whole.patches

    def taken(**wish: Any) -> np.ndarray:
        return np.asarray(client.embed(picture(3), size=(16, 48), **wish).outputs["tokens"])

    close = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(taken(view="cls"), tokens[0], **close)
    np.testing.assert_allclose(taken(view="patches"), patches, **close)
    np.testing.assert_allclose(taken(view="mean"), patches.mean(0), **close)
    np.testing.assert_allclose(taken(rect=(0, 4, 2, 2)), patches[[4, 5, 10, 11]], **close)
    np.testing.assert_allclose(taken(patches=[11, 0]), patches[[11, 0]], **close)
    assert client.embed(picture(3), size=(16, 48)).patch_grid.shape == (2, 6, 16)
    with pytest.raises(InvalidArgumentError, match="beyond the 2 x 6 patches of output tokens"):
        taken(rect=(2, 0, 1, 1))
    with pytest.raises(InvalidArgumentError, match="patch 12 is asked for"):
        taken(patches=[12])


def test_a_choice_that_one_row_has_not_fails_it_alone(client: Client) -> None:
    rows = [Prepared(row((64, 64), 0)), Prepared(row((16, 48), 1))]
    good, bad = client.embed(rows, rect=(4, 4, 1, 1), errors="return")
    assert isinstance(good, Embedding)
    assert good.outputs["tokens"].shape == (1, 16)
    assert isinstance(bad, ImageError)
    assert "beyond the 2 x 6 patches" in str(bad)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_bytes_are_foretold_by_size(server: Running, size: tuple[int, int], dtype: str) -> None:
    with Client(server.address) as client:
        got = client.embed(picture(4), size=size, dtype=dtype)
        spec = dynamic.at(client.model().spec, size)
    taken = sum(array.nbytes for array in (*got.outputs.values(), *got.scales.values()))
    chosen = Selection(dtype=getattr(tensor_pb2, f"DATA_TYPE_{dtype.upper()}"))
    assert sizes.payload_bytes(spec, [("tokens", chosen)]) == taken


def test_requests_are_cut_by_what_a_size_takes(
    server: Running, engine: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "MAX_REPLY_BYTES", 8 * 65 * 16 * 4)
    pictures = [picture(number) for number in range(20)]
    before = len(server.lines("embed"))
    with Client(server.address) as client:
        native = client.embed(pictures)
        large = client.embed(pictures, size=(64, 64))
        mixed = client.embed([*map(Prepared, [row(NATIVE, 1)] * 8), Prepared(row((64, 64), 2))])
    assert [line["images"] for line in server.lines("embed")[before:]] == [20, 8, 8, 4, 8, 1]
    for got, want in zip(native, engine.embed(pictures), strict=True):
        same(got, want)
    for got, want in zip(large, engine.embed(pictures, size=(64, 64)), strict=True):
        same(got, want)
    assert [one.grid for one in mixed] == [(4, 4)] * 8 + [(8, 8)]


def test_a_reply_too_large_is_refused_before_the_run(server: Running) -> None:
    request = pb.EmbedRequest(max_reply_bytes=4000, size=tensor_pb2.ImageSize(height=64, width=64))
    tensor = request.items.add().pixels
    tensor.dtype, tensor.data = tensor_pb2.DATA_TYPE_UINT8, picture(0).tobytes()
    tensor.shape.extend(picture(0).shape)
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")
        with pytest.raises(grpc.RpcError, match="1 images takes 4160 bytes; the limit is 4000"):
            call(request.SerializeToString())
        request.size.height = 56
        reply = pb.EmbedResponse.FromString(call(request.SerializeToString()))
    assert len(reply.payloads[0]) == 57 * 16 * 4


def test_many_threads_of_one_client(client: Client, engine: Model) -> None:
    asked = [(SIZES[number % 3], [picture(number), picture(number + 500)]) for number in range(30)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: client.embed(one[1], size=one[0]), asked))
    for (size, pictures), got in zip(asked, found, strict=True):
        for one, want in zip(got, engine.embed(pictures, size=size), strict=True):
            same(one, want)
