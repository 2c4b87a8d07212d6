"""The full matrix: every family, static and of dynamic size, in every precision; exported, proven and served.

It takes most of an hour and runs as `make test-matrix`; what came of it goes to the file that VITRAL_MATRIX
names. The default tests have its first column and its diagonal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import family_checkpoints as families
import numpy as np
import pytest
from serving import running

import vitral_engine
from vitral.v1 import model_pb2 as pb
from vitral_client import Client
from vitral_export.cli import main

RESULTS = os.environ.get("VITRAL_MATRIX", "")

pytestmark = pytest.mark.skipif(not RESULTS, reason="needs most of an hour: make test-matrix")

FORMS = (
    ("float32", "20"),
    ("float32", "23"),
    ("float16", "20"),
    ("float16-storage", "20"),
    ("int8", "20"),
)
"""Precision and opset."""

STATIC = ("beit", "beit shared", "vit mae")
"""Families that are refused at dynamic size."""

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
PROCESSOR = {
    "image_processor_type": "ViTImageProcessorPil",
    "size": {"height": families.SIDE, "width": families.SIDE},
}


@dataclass(frozen=True)
class Cell:
    """What came of one export: relative L2 of its worst output and graph, against float64, and its budget."""

    family: str
    size: str
    precision: str
    opset: str
    rel_l2: float
    budget: float
    graphs: int
    sizes: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def cells() -> Iterator[list[Cell]]:
    """Every cell that was done, written down at the end."""
    done: list[Cell] = []
    yield done
    Path(RESULTS).write_text(json.dumps([asdict(cell) for cell in done], indent=1) + "\n")


def _name(family: str, size: str, precision: str, opset: str) -> str:
    return f"{family}-{size}-{precision}-{opset}".replace(" ", "-")


@pytest.mark.parametrize(("precision", "opset"), FORMS)
@pytest.mark.parametrize("size", ["static", "dynamic"])
@pytest.mark.parametrize("family", families.CHECKPOINTS)
def test_exported_and_proven(
    folder: Path,
    cells: list[Cell],
    capsys: pytest.CaptureFixture[str],
    family: str,
    size: str,
    precision: str,
    opset: str,
) -> None:
    source = folder / "checkpoints" / family
    if not source.exists():
        families.save(family, source)
    processor = folder / "processor.json"
    processor.write_text(json.dumps(PROCESSOR))
    name = _name(family, size, precision, opset)
    line = ["build", f"hf:{source}", "--name", name, "--repo", str(folder / "models"), "--opset", opset]
    line += ["--precision", precision, "--preprocessing", str(processor)]
    code = main([*line, "--dynamic-size"] if size == "dynamic" else line)
    said = capsys.readouterr().err
    if size == "dynamic" and family in STATIC:
        assert code == 1
        assert "is static" in said
        return
    assert code == 0, said
    model = vitral_engine.open(folder / "models" / name, device="cpu")
    spec = model.spec
    assert spec.proof.status == pb.PROOF_STATUS_PROVEN
    assert (spec.precision, spec.opset) == (precision, int(opset))
    assert any(graph.input.folded for graph in spec.graphs)
    assert spec.architecture.HasField("max_size") is (size == "dynamic")
    worst = max(spec.proof.figures, key=lambda figure: figure.rel_l2 / figure.rel_l2_budget)
    sizes = len(spec.proof.sizes)
    cells.append(
        Cell(family, size, precision, opset, worst.rel_l2, worst.rel_l2_budget, len(spec.graphs), sizes)
    )


def test_all_of_them_are_served_by_one_server(folder: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (folder / "models").iterdir())
    assert names
    with running(folder / "models", log=tmp_path / "log") as server, Client(server.address) as client:
        for name in names:
            got = client.embed(PICTURE, model=name).patches
            want = vitral_engine.open(folder / "models" / name, device="cpu").embed([PICTURE])[0].patches
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4, err_msg=name)
            if "-dynamic-" in name:
                wide = client.embed(PICTURE, model=name, size=(16, 24)).patches
                assert len(wide) == 4 * 6, name
