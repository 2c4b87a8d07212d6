"""Rows and element types that the server selects, against what a caller takes from the whole tensor."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import photographs
import pytest
import torch
from serving import Running, running
from torch import Tensor, nn

import vitral_export
from vitral import framing, output_request, selection, sizes, tensors
from vitral.errors import InvalidArgumentError
from vitral.results import Embedding
from vitral.selection import Rect, Selection
from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import AsyncClient, Client
from vitral_export.cli import main
from vitral_export.loaded import Options

PLAIN, MIXED, CONSTANT = "tiny", "mixed", "vit-embedding"
OUTPUT = {PLAIN: "patch_embeddings", MIXED: "tokens"}
FRONT = {PLAIN: 0, MIXED: 3}
PICTURES = photographs.JPEGS[:2]
BF16_ERROR, INT8_ERROR = 2**-8, 0.5001  # of a value; of a scale


class Mixed(nn.Module):
    """CLS and two registers in front of 4 x 4 patches, all of which attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.front = nn.Parameter(torch.randn(1, 3, 16))
        self.qkv = nn.Linear(16, 48)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        x = self.patches(pixels).flatten(2).transpose(1, 2)  # B C H W -> B N D
        x = torch.cat([self.front.expand(x.shape[0], -1, -1), x], dim=1)
        batch, count, width = x.shape
        query, key, value = self.qkv(x).reshape(batch, count, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + y.transpose(1, 2).reshape(batch, count, width)
        return {"tokens": x, "pooled": x[:, 3:].mean(dim=1)}


@pytest.fixture(scope="module")
def server(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Patches alone, a model of every kind of token, and one whose CLS token is a constant."""
    folder = tmp_path_factory.mktemp("selection")
    repo = shutil.copytree(small_repo, folder / "models")
    torch.manual_seed(0)
    options = Options(
        img_size=32, prefix_tokens=("cls", "register", "register"), outputs=("tokens", "pooled")
    )
    vitral_export.export(Mixed(), name=MIXED, repo=repo, options=options)
    size = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16")
    assert main(["build", CONSTANT, "--name", CONSTANT, "--repo", str(repo), *size]) == 0
    with running(repo, "--queue-delay-ms", "30", "--instances", "1", log=folder / "log") as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def whole(client: Client) -> Mapping[str, list[np.ndarray]]:
    """The whole tensors of both pictures by model, as the caller has always had them."""
    return {
        model: [found.outputs[name] for found in client.embed(PICTURES, model=model, outputs=name)]
        for model, name in OUTPUT.items()
    }


def _rows(full: np.ndarray, front: int, wish: Mapping[str, Any]) -> np.ndarray:
    """What a caller takes from the whole tensor (N, D)."""
    patches = full[front:]
    if "patches" in wish:
        rows = patches[list(wish["patches"])]
    elif "rect" in wish:
        row, column, height, width = wish["rect"]
        rows = patches.reshape(4, 4, -1)[row : row + height, column : column + width].reshape(-1, 16)
    else:
        views = {"patches": patches, "cls": full[0], "registers": full[1:3]}
        view = wish.get("view")
        rows = patches.mean(axis=0, dtype=np.float32) if view == "mean" else views.get(view, full)
    if wish.get("l2_normalize"):
        norm = np.linalg.norm(rows.astype(np.float64), axis=-1, keepdims=True)
        rows = (rows / norm).astype(np.float32)
    return rows


ROWS: tuple[Mapping[str, Any], ...] = (
    {},
    {"view": "patches"},
    {"view": "mean"},
    {"patches": [0, 15, 7, 7]},
    {"patches": range(4, 9)},
    {"view": "patches", "patches": [15]},
    {"rect": (1, 2, 3, 2)},
    {"view": "patches", "rect": (0, 0, 4, 4)},
    {"view": "cls"},
    {"view": "registers"},
)
SELECTED = [
    *((MIXED, wish) for wish in ROWS),
    *((PLAIN, wish) for wish in ROWS if wish.get("view") not in ("cls", "registers")),
]


@pytest.mark.parametrize(("model", "wish"), SELECTED, ids=str)
def test_rows_are_those_the_caller_would_take(
    client: Client, whole: Mapping[str, list[np.ndarray]], model: str, wish: Mapping[str, Any]
) -> None:
    name = OUTPUT[model]
    for unit in (False, True):
        asked: dict[str, Any] = {**wish, "l2_normalize": unit}
        found = client.embed(PICTURES, model=model, outputs=name, **asked)
        half = client.embed(PICTURES, model=model, outputs=name, dtype="float16", **asked)
        for result, narrow, full in zip(found, half, whole[model], strict=True):
            truth = _rows(full, FRONT[model], asked)
            array = result.outputs[name]
            assert array.shape == truth.shape
            if unit:  # two orders of summing float64, each rounded to float32 once
                np.testing.assert_allclose(array, truth, rtol=2**-22, atol=0)
            else:
                np.testing.assert_array_equal(array, truth)
            np.testing.assert_array_equal(narrow.outputs[name], array.astype(np.float16))
            assert narrow.outputs[name].dtype == np.float16


@pytest.mark.parametrize("wish", ROWS, ids=str)
def test_narrow_types_stay_within_their_bounds(client: Client, wish: Mapping[str, Any]) -> None:
    asked: dict[str, Any] = {"model": MIXED, "outputs": "tokens", **wish}
    exact = client.embed(PICTURES[0], **asked).outputs["tokens"]
    brain = client.embed(PICTURES[0], dtype="bfloat16", **asked)
    tensor = torch.from_numpy(exact.copy()).bfloat16()
    np.testing.assert_array_equal(brain.outputs["tokens"], tensor.float().numpy())  # nearest even
    assert np.all(np.abs(brain.outputs["tokens"] - exact) <= BF16_ERROR * np.abs(exact))
    small = client.embed(PICTURES[0], dtype="int8", **asked)
    scale = small.scales["tokens"]
    assert (small.outputs["tokens"].dtype, scale.dtype) == (np.int8, np.float32)
    assert scale.shape == exact.shape[:-1]
    np.testing.assert_array_equal(scale, np.abs(exact).max(axis=-1) / np.float32(127))
    again = small.dequantized("tokens")
    assert again.dtype == np.float32
    assert np.all(np.abs(again - exact) <= INT8_ERROR * scale[..., None])
    assert np.abs(small.outputs["tokens"]).max() == 127


def test_outputs_that_are_no_tokens_have_lengths_and_types_too(client: Client) -> None:
    exact = client.embed(PICTURES[0], model=MIXED, outputs="pooled").outputs["pooled"]
    small = client.embed(PICTURES[0], model=MIXED, outputs="pooled", dtype="int8", l2_normalize=True)
    assert small.scales["pooled"].shape == ()
    unit = exact / np.linalg.norm(exact)
    np.testing.assert_allclose(small.dequantized("pooled"), unit, atol=float(small.scales["pooled"]), rtol=0)


async def test_different_selections_share_a_run(
    server: Running, whole: Mapping[str, list[np.ndarray]]
) -> None:
    async with AsyncClient(server.address) as client:
        calls = [client.embed(PICTURES, model=MIXED, outputs="tokens", **dict(wish)) for wish in ROWS]
        every = await asyncio.gather(*calls)
        stream = client.embed_iter(PICTURES, model=MIXED, outputs="tokens", view="cls")
        streamed = [item async for item in stream]
    for wish, found in zip(ROWS, every, strict=True):
        for result, full in zip(found, whole[MIXED], strict=True):
            np.testing.assert_array_equal(result.outputs["tokens"], _rows(full, 3, wish))
    for item, full in zip(streamed, whole[MIXED], strict=True):
        assert isinstance(item, Embedding)
        np.testing.assert_array_equal(item.cls, full[0])
    assert max(result.timings.batch_size for found in every for result in found) > 2


def test_the_reply_is_as_large_as_was_foretold(server: Running, client: Client) -> None:
    spec = client.model(MIXED).spec
    rows = [Selection(view=view) for view in ("", *selection.VIEWS)] + [Selection(rect=Rect(1, 1, 2, 3))]
    types = [tensors.dtype_named(name) for name in selection.DTYPES]
    chosen = [replace(one, dtype=dtype) for one in rows for dtype in types]
    outputs = [output_request.write("tokens", one) for one in chosen]
    items = [pb.Item(encoded=path.read_bytes()) for path in PICTURES]
    request = pb.EmbedRequest(model=MIXED, items=items, outputs=outputs)
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")
        header, payloads = framing.split(call(request.SerializeToString(), timeout=20))
    wanted = [("tokens", one) for one in chosen]
    reply = pb.EmbedResponse.FromString(header)
    foretold, room = sizes.payload_bytes(spec, wanted, images=2), sizes.header_bytes(wanted, 2)
    assert sum(payload.nbytes for payload in payloads) == foretold
    assert framing.framed_bytes(len(header), [p.nbytes for p in payloads]) <= foretold + room
    assert list(reply.outputs) == outputs
    for asked, one in zip(chosen, reply.results[0].outputs, strict=True):
        assert (tuple(one.shape), one.dtype) == (selection.part(spec, "tokens", asked).shape, asked.dtype)
        assert one.HasField("scale") == (tensors.name_of(asked.dtype) == "int8")


REFUSED: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "no CLS": (PLAIN, {"view": "cls"}, "output patch_embeddings of model tiny has no CLS token"),
    "no registers": (PLAIN, {"view": "registers"}, "patch_embeddings of model tiny has no register tokens"),
    "constant": (CONSTANT, {"view": "cls"}, "CLS row of embeddings does not depend on the image"),
    "no tokens": (
        MIXED,
        {"outputs": "pooled", "view": "mean"},
        "mixed is no token sequence but 16",
    ),
    "index": (
        MIXED,
        {"outputs": "tokens", "patches": [3, 99]},
        "patch 99 .* has 16, the first is 0",
    ),
    "too many": (PLAIN, {"patches": [0] * 17}, "17 patches are asked for; output patch_embeddings .* has 16"),
    "too low": (PLAIN, {"rect": (2, 0, 3, 1)}, "3 x 1 patches at row 2, column 0 reaches beyond the 4 x 4"),
    "too wide": (PLAIN, {"rect": (0, 3, 1, 2)}, "1 x 2 patches at row 0, column 3 reaches beyond the 4 x 4"),
    "empty": (PLAIN, {"rect": (0, 0, 0, 2)}, "rectangle of 0 x 2 patches at row 0, column 0 holds none"),
    "both": (PLAIN, {"rect": (0, 0, 1, 2), "patches": [5]}, "1 patches and a rectangle of 1 x 2 patches"),
    "not of CLS": (MIXED, {"view": "cls", "patches": [1, 2]}, "choice of 2 patches goes with view patches"),
    "not of mean": (MIXED, {"view": "mean", "rect": (0, 1, 1, 1)}, "rectangle of 1 x 1 .* not mean"),
    "view": (PLAIN, {"view": "head"}, "unknown view 'head'; known are cls, patches, registers, mean"),
    "no view": (PLAIN, {"view": ""}, "view is a name or None, not ''"),
    "no index": (PLAIN, {"patches": []}, "patches are one index or more"),
    "below": (PLAIN, {"patches": [-1]}, r"from 0 on, not \[-1\]"),
    "no number": (PLAIN, {"patches": [1.5]}, r"from 0 on, not \[1.5\]"),
    "no rect": (PLAIN, {"rect": (1, 2, 3)}, r"rect is \(row, column, height, width\).* not \(1, 2, 3\)"),
    "no flag": (PLAIN, {"l2_normalize": 1}, "l2_normalize is True or False, not 1"),
    "type": (PLAIN, {"dtype": "uint8"}, "dtype is one of float32, float16, bfloat16, int8, not 'uint8'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_selected_is_refused_with_the_numbers(client: Client, case: str) -> None:
    model, wish, words = REFUSED[case]
    with pytest.raises(InvalidArgumentError, match=words):
        client.embed(PICTURES[0], model=model, **wish)


def test_the_server_refuses_by_itself(server: Running) -> None:
    cases = (
        ({"view": 9}, "output tokens: view 9 is unknown; known are 0 to 4"),
        ({"patches": [0] * 70000}, "output tokens: 70000 patches; the limit is 65536"),
        ({"patches": [1, 2], "rect": pb.PatchRect(height=1, width=1)}, "2 patches and a rectangle of 1 x 1"),
        (
            {"rect": pb.PatchRect(row=2**32 - 1, height=2**32 - 1, width=1)},
            "4294967295 x 1 patches at row",
        ),
        (
            {"view": pb.TOKEN_VIEW_REGISTERS, "patches": [4]},
            "choice of 1 patches goes with view",
        ),
    )
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")
        for fields, words in cases:
            output = pb.OutputRequest(name="tokens", **fields)  # type: ignore[arg-type]
            request = pb.EmbedRequest(model=MIXED, items=[pb.Item(encoded=b"x")], outputs=[output])
            with pytest.raises(grpc.RpcError, match=words) as refused:
                call(request.SerializeToString(), timeout=20)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_a_selected_result_gives_its_rows_or_says_why_not(client: Client) -> None:
    asked: dict[str, Any] = {"model": MIXED, "outputs": "tokens"}
    whole = client.embed(PICTURES[0], **asked)
    cls = client.embed(PICTURES[0], view="cls", **asked)
    np.testing.assert_array_equal(cls.cls, whole.cls)
    with pytest.raises(InvalidArgumentError, match="tokens holds a selection, cls, float32: take outputs"):
        _ = cls.patches
    patches = client.embed(PICTURES[0], view="patches", dtype="int8", **asked)
    np.testing.assert_array_equal(patches.patches, patches.dequantized("tokens"))
    assert patches.patch_grid.shape == (4, 4, 16)
    with pytest.raises(InvalidArgumentError, match="holds a selection, patches, int8"):
        _ = patches.cls
    every = client.embed(PICTURES[0], dtype="int8", l2_normalize=True, **asked)
    np.testing.assert_array_equal(every.cls, every.dequantized("tokens")[0])
    np.testing.assert_array_equal(every.patches, every.dequantized("tokens")[3:])
    for wish in ({"patches": [1]}, {"rect": (0, 0, 4, 4)}, {"view": "mean"}, {"view": "registers"}):
        some = client.embed(PICTURES[0], **asked, **wish)  # type: ignore[arg-type]
        for rows in ("patches", "patch_grid", "cls"):
            with pytest.raises(InvalidArgumentError, match="tokens holds a selection"):
                getattr(some, rows)
    with pytest.raises(InvalidArgumentError, match="no output 'other'; there are tokens"):
        whole.dequantized("other")
