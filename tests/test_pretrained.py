"""Real trained weights, end to end: a DINOv2 ViT-S/14 backbone, proven and served in every precision."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from serving import running
from transformers import AutoModel, BitImageProcessorPil

import vitral_engine
from vitral.v1 import model_pb2 as pb
from vitral_client import Client
from vitral_engine.image import open_rgb
from vitral_export import cases
from vitral_export.cli import main
from vitral_export.compare import compare

FOLDER = Path(os.environ.get("VITRAL_PRETRAINED", ""))

pytestmark = pytest.mark.skipif(
    "VITRAL_PRETRAINED" not in os.environ, reason="needs trained weights, 90 MB: make test-pretrained"
)

LOSS = {"float32": 5e-6, "float16": 1e-2, "float16-storage": 5e-3, "int8": 0.3}
"""Relative L2 of the tokens against the library's float32, at most."""


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return FOLDER / "dinov2-vits14-focus"


@pytest.fixture(scope="module")
def pixels(checkpoint: Path) -> np.ndarray:
    """Two photographs as the library's own processor prepares them."""
    processor = BitImageProcessorPil.from_pretrained(checkpoint)
    pictures = [open_rgb(cases.photograph_bytes(name)) for name in cases.PHOTOGRAPHS[1:3]]
    rows: np.ndarray = processor(pictures, return_tensors="np")["pixel_values"]
    return rows


@pytest.fixture(scope="module")
def tokens(checkpoint: Path, pixels: np.ndarray) -> np.ndarray:
    """Their tokens by transformers."""
    model = AutoModel.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        found: np.ndarray = model(torch.from_numpy(pixels)).last_hidden_state.numpy()
    return found


@pytest.fixture(scope="module")
def repo(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in every precision, and of dynamic size."""
    made = tmp_path_factory.mktemp("pretrained") / "models"
    for name, options in (
        *((precision, ("--precision", precision)) for precision in LOSS),
        ("dynamic", ("--dynamic-size",)),
    ):
        line = ["build", f"hf:{checkpoint}", "--name", name, "--repo", str(made), *options]
        assert main(line) == 0
    return made


def _off(mine: np.ndarray, its: np.ndarray) -> float:
    return float(np.linalg.norm(mine.astype(np.float64) - its) / np.linalg.norm(its))


def test_the_weights_are_those_of_the_shipped_graph(pixels: np.ndarray, tokens: np.ndarray) -> None:
    session = onnxruntime.InferenceSession(FOLDER / "shipped.onnx", providers=["CPUExecutionProvider"])
    (shipped,) = session.run(None, {"input_image": pixels})
    assert _off(shipped, tokens) < 1e-4


@pytest.mark.parametrize("precision", LOSS)
def test_a_precision_is_proven_and_loses_no_more_than_it_may(
    repo: Path, pixels: np.ndarray, tokens: np.ndarray, precision: str
) -> None:
    model = vitral_engine.open(repo / precision, device="cpu")
    assert model.spec.proof.status == pb.PROOF_STATUS_PROVEN
    got = model.session_for(["last_hidden_state"], prepared=True).run(pixels)["last_hidden_state"]
    loss = _off(got, tokens)
    print(f"{precision}: relative L2 {loss:.2e}")
    assert loss < LOSS[precision]


def test_other_sizes_are_the_library_s(repo: Path, checkpoint: Path) -> None:
    model, library = vitral_engine.open(repo / "dynamic", device="cpu"), AutoModel.from_pretrained(checkpoint)
    session = model.session_for(["last_hidden_state"], prepared=True)
    for size in ((224, 224), (140, 336), (336, 140), (518, 518)):
        rows = np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)
        with torch.inference_mode():
            want = library.eval()(torch.from_numpy(rows)).last_hidden_state.numpy()
        assert _off(session.run(rows)["last_hidden_state"], want) < 5e-6, size


def test_it_is_served(repo: Path, tokens: np.ndarray, tmp_path: Path) -> None:
    photograph = cases.photograph_bytes(cases.PHOTOGRAPHS[1])
    with running(repo, log=tmp_path / "log") as server, Client(server.address, timeout=120) as client:
        got = client.embed(photograph, model="float32")
    assert _off(got.outputs["last_hidden_state"], tokens[0]) < 5e-6


def test_precisions_are_compared(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for other in ("float16", "float16-storage", "int8"):
        found = compare(repo / "float32", repo / other, seconds=2)
        (drift,) = (row for row in found.drift if row.output == "last_hidden_state")
        assert drift.median < LOSS[other]
        near = {row.rows: row for row in found.neighbours if row.output == "last_hidden_state"}
        assert near["patches"].top1 > 0.5
        with capsys.disabled():
            print(json.dumps({"precision": other, "median": drift.median, "largest": drift.largest}))
            print(json.dumps({kind: (row.top1, row.top5, row.mixed1) for kind, row in near.items()}))
            print(json.dumps([(cost.images_per_second, cost.bytes) for cost in found.costs]))
