"""Both clients over real gRPC against hand-made replies."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import numpy as np
import pytest
from client_wire import BF16, Wire, expected, serve, spec

import vitral_client
from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import AsyncClient, Client, Health, Prepared
from vitral_client.client import Client as Blocking


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve(Wire()) as running:
        yield running


@pytest.fixture
def client(wire: Wire) -> Iterator[Client]:
    with Client(wire.address, timeout=10) as running:
        yield running


WAITING = {
    "AsyncGenerator[": "Generator[",
    "], None]'": "], None, None]'",
    "| ImageError, None]'": "| ImageError, None, None]'",
    "Iterable[Image] | AsyncIterable[Image]": "Iterable[Image]",
}
"""What asyncio adds to a signature, and what the client that blocks has there."""


def _public(cls: type) -> dict[str, str]:
    found = inspect.getmembers(cls, inspect.isfunction)
    return {
        name: str(inspect.signature(f)) for name, f in found if not name.startswith("_") or name == "__init__"
    }


def test_both_clients_have_the_same_verbs_and_signatures() -> None:
    awaited = _public(AsyncClient)
    for name in ("embed_iter", "embed_stream"):
        assert "AsyncGenerator[" in awaited[name]
        assert "AsyncIterable[" in awaited[name]
        for more, less in WAITING.items():
            awaited[name] = awaited[name].replace(more, less)
    assert _public(Client) == awaited
    verbs = {"embed", "embed_iter", "embed_stream", "models", "model", "health", "close"}
    assert verbs < set(_public(Client))


def test_embed_iter_takes_what_embed_takes() -> None:
    ours, theirs = (inspect.signature(verb).parameters for verb in (Client.embed_iter, Client.embed))
    assert set(ours) - set(theirs) == {"batch", "in_flight"}
    assert set(theirs) - set(ours) == {"errors"}
    shared = set(ours) & set(theirs) - {"images"}
    assert {name: str(ours[name]) for name in shared} == {name: str(theirs[name]) for name in shared}


def test_everything_exported_exists() -> None:
    assert all(hasattr(vitral_client, name) for name in vitral_client.__all__)
    assert vitral_client.Client is Blocking


def test_one_image_gives_one_embedding_and_a_list_a_list(client: Client, wire: Wire) -> None:
    one = client.embed(b"photograph")
    several = client.embed([b"photograph", b"other"])
    assert one.model == "tiny"
    assert one.version == "3"
    assert one.grid == (2, 2)
    assert one.timings.run_ms == 1.5
    assert one.patch_grid.shape == (2, 2, 6)
    np.testing.assert_array_equal(one.patches, expected(b"photograph"))
    np.testing.assert_array_equal(several[1].patches, expected(b"other"))
    assert several[0].timings.batch_size == 2
    assert client.embed([]) == []
    assert client.embed(image for image in [b"generated"])[0].grid == (2, 2)


def test_results_are_read_only_views_of_the_reply(client: Client) -> None:
    first, second = client.embed([b"a", b"b"])
    for result in (first, second):
        array = result.outputs["patch_embeddings"]
        assert not array.flags.writeable
        assert not array.flags.owndata
    owner = [first.patches.base, second.patches.base]
    while any(isinstance(base, np.ndarray) for base in owner):
        owner = [getattr(base, "base", None) for base in owner]
    assert owner[0].obj is owner[1].obj


def test_each_door_arrives_as_sent(client: Client, wire: Wire) -> None:
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    row = np.linspace(-1, 1, 3 * 4 * 4, dtype=np.float32).reshape(3, 4, 4)
    results = client.embed([b"file", pixels[:, ::-1], Prepared(row)], size=(4, 8), model="tiny/3")
    np.testing.assert_array_equal(results[1].patches, expected(pixels[:, ::-1].tobytes()))
    request = wire.requests[-1]
    assert (request.model, request.version) == ("tiny", "3")
    assert (request.size.height, request.size.width) == (4, 8)
    assert [item.WhichOneof("content") for item in request.items] == ["encoded", "pixels", "prepared"]
    assert list(request.items[1].pixels.shape) == [2, 5, 3]
    assert request.payloads[0] == pixels[:, ::-1].tobytes()
    assert request.payloads[1] == row.tobytes()


def test_dtype_is_asked_for_by_the_names_of_the_defaults(client: Client, wire: Wire) -> None:
    half = client.embed(b"x", dtype="float16")
    assert half.patches.dtype == np.float16
    client.embed(b"x", dtype="float16")
    # one GetModel for the names, which has the spec of the answer too, and never again
    assert wire.paths.count("/vitral.v1.EmbeddingService/GetModel") == 1
    wide = client.embed(b"x", dtype="bfloat16", outputs=["extra", "patch_embeddings"])
    assert list(wide.outputs) == ["extra", "patch_embeddings"]
    assert wide.outputs["extra"].dtype == np.float32
    assert not wide.outputs["extra"].flags.writeable
    assert wire.requests[-1].outputs[0].dtype == BF16


def test_a_server_that_does_not_say_what_it_did_is_not_believed(client: Client, wire: Wire) -> None:
    for wish, words in (
        ({"view": "mean"}, "mean, float32"),
        ({"l2_normalize": True}, "all rows, unit length, float32"),
    ):
        said = f"output patch_embeddings: {words} was asked for; the server says it did nothing"
        with pytest.raises(vitral_client.ServerError, match=said):
            client.embed(b"x", **wish)  # type: ignore[arg-type]
    assert wire.requests[0].outputs[0].view == pb.TOKEN_VIEW_PATCH_MEAN
    assert wire.requests[1].outputs[0].l2_normalize

    def other(request: pb.EmbedRequest, _: object) -> bytes:
        reply = pb.EmbedResponse.FromString(wire.embed(request))
        reply.outputs.add(name="patch_embeddings", view=pb.TOKEN_VIEW_CLS)
        return reply.SerializeToString()

    wire.on_embed = other
    with pytest.raises(vitral_client.ServerError, match="the server says it did cls, float32"):
        client.embed(b"x", view="mean")


def test_the_spec_is_fetched_once_for_each_fingerprint(client: Client, wire: Wire) -> None:
    for _ in range(3):
        client.embed(b"x")
    get_model = "/vitral.v1.EmbeddingService/GetModel"
    assert wire.paths.count(get_model) == 1
    wire.models["tiny"] = pb.ServedModel(spec=spec(fingerprint="e" * 64), version="4", state=2, name="tiny")
    assert client.embed(b"x").fingerprint == "e" * 64
    assert wire.paths.count(get_model) == 2


def test_a_model_changed_under_the_call_is_an_error(client: Client, wire: Wire) -> None:
    def other(request: pb.EmbedRequest, _: object) -> bytes:
        reply = pb.EmbedResponse.FromString(wire.embed(request))
        reply.fingerprint = "0" * 64
        return reply.SerializeToString()

    wire.on_embed = other
    with pytest.raises(vitral_client.FingerprintMismatchError, match="000000000000"):
        client.embed(b"x")


def test_bad_images_fail_alone_and_in_order(client: Client, tmp_path) -> None:
    missing = tmp_path / "missing.jpg"
    images = [b"good", missing, b"bad", tmp_path, b"fine"]
    with pytest.raises(vitral_client.ImageErrors, match="3 of 5 images failed") as failed:
        client.embed(images)
    assert sorted(failed.value.errors) == [1, 2, 3]
    assert [error.cause for error in failed.value.errors.values()] == [
        "unreadable",
        "truncated",
        "unreadable",
    ]
    results = client.embed(images, errors="return")
    assert [getattr(result, "index", None) for result in results] == [None, 1, 2, 3, None]
    np.testing.assert_array_equal(results[4].patches, expected(b"fine"))
    with pytest.raises(vitral_client.ImageError, match=r"missing\.jpg cannot be read: No such file"):
        client.embed(missing)
    with pytest.raises(vitral_client.ImageError, match="ends after 3 bytes"):
        client.embed(b"bad")
    assert isinstance(client.embed(b"bad", errors="return"), vitral_client.ImageError)


def test_nothing_is_sent_when_no_image_can_be_read(client: Client, wire: Wire, tmp_path) -> None:
    results = client.embed([tmp_path / "a", tmp_path / "b"], errors="return")
    assert [result.cause for result in results] == ["unreadable", "unreadable"]
    assert not wire.requests


async def test_the_async_client_answers_like_the_other(wire: Wire) -> None:
    async with AsyncClient(wire.address) as client:
        one, several = await asyncio.gather(client.embed(b"photograph"), client.embed([b"a", b"b"]))
        np.testing.assert_array_equal(one.patches, expected(b"photograph"))
        assert len(several) == 2
        assert (await client.model("tiny")).version == "3"
        assert [served.name for served in await client.models()] == ["tiny"]
        assert await client.health() is Health.SERVING
        with pytest.raises(vitral_client.ImageErrors):
            await client.embed([b"a", b"bad"])
        assert (await client.embed(b"x", dtype="float16")).patches.dtype == np.float16
    with pytest.raises(vitral_client.UnavailableError, match="is closed"):
        await client.embed(b"x")


def test_models_model_and_health(client: Client, wire: Wire) -> None:
    wire.health["sick"] = 2
    assert [served.name for served in client.models()] == ["tiny"]
    assert client.model().spec.name == "tiny"
    assert client.model("tiny/3").version == "3"
    assert client.health() is Health.SERVING
    assert client.health("sick") is Health.NOT_SERVING
    with pytest.raises(vitral_client.ModelNotFoundError, match="no model 'none'"):
        client.health("none")
    with pytest.raises(vitral_client.ModelNotFoundError, match="there is tiny"):
        client.model("none")


def test_oversize_is_refused_before_sending(client: Client, wire: Wire) -> None:
    size = 64 * 1024 * 1024
    said = f"one image takes at least {size + 10} bytes, over the limit of {size} bytes a message"
    with pytest.raises(vitral_client.TooLargeError, match=said):
        client.embed(bytes(size))
    assert not wire.requests
