"""`vitral-export compare`: what two models make of the same pictures, and what they cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import vit_checkpoints as vits
from safetensors.torch import load_file, save_file

import vitral_engine
from vitral.errors import InvalidArgumentError
from vitral_export import cases, compare
from vitral_export.cli import main


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, small_repo: Path) -> Path:
    """`vit`; `rounded`, the same from weights of half precision; `other`, wider; `rows`, without pictures."""
    folder = tmp_path_factory.mktemp("compare")
    source = vits.save(folder / "vit", vits.model(vits.OTHER))
    rounded = shutil.copytree(source, folder / "rounded")
    file = rounded / "model.safetensors"
    state = {name: tensor.half().float() for name, tensor in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})
    wide = vits.save(folder / "wide", vits.model({**vits.OTHER, "hidden_size": 48}))
    made = folder / "models"
    for name, place in (("vit", source), ("rounded", rounded), ("other", wide)):
        options = ("--outputs", "last_hidden_state,patch_embeddings,pooler_output")
        assert main(["build", f"hf:{place}", "--name", name, "--repo", str(made), *options]) == 0
    sizes = ("--img-size", "32", "--patch-size", "8", "--embed-dim", "16", "--preprocessing", "none")
    assert main(["build", "patch-embedding", "--name", "rows", "--repo", str(made), *sizes]) == 0
    return made


def test_a_model_is_itself(repo: Path) -> None:
    found = compare.compare(repo / "vit", repo / "vit", seconds=0)
    assert found.pictures == 54
    assert {row.output for row in found.drift} == {"last_hidden_state", "patch_embeddings", "pooler_output"}
    assert all((row.median, row.largest) == (0, 0) and abs(row.cosine) < 1e-12 for row in found.drift)
    kinds = {(row.output, row.rows, row.vectors) for row in found.neighbours}
    assert kinds == {
        ("last_hidden_state", "cls", 54),
        ("last_hidden_state", "patches", 54 * 16),
        ("patch_embeddings", "patches", 54 * 16),
        ("pooler_output", "vector", 54),
    }
    assert all((row.top1, row.top5, row.mixed1) == (1, 1, 1) for row in found.neighbours)
    assert "both have one fingerprint: they are the same model" in found.notes
    assert found.costs[0].bytes == found.costs[1].bytes > 0


def test_drift_is_what_the_engine_gives(repo: Path) -> None:
    """Against the two models' own answers, computed here in another way."""
    found = compare.compare(repo / "vit", repo / "rounded", seconds=0)
    models = [vitral_engine.open(repo / name, device="cpu") for name in ("vit", "rounded")]
    pictures = list(compare._cuts())
    a, b = (
        np.stack([one.outputs["pooler_output"] for one in model.embed(pictures, outputs=["pooler_output"])])
        for model in models
    )
    errors = [np.linalg.norm(y - x) / np.linalg.norm(x) for x, y in zip(a, b, strict=True)]
    (row,) = (row for row in found.drift if row.output == "pooler_output")
    assert row.median == pytest.approx(np.median(errors), rel=1e-4)
    assert row.largest == pytest.approx(max(errors), rel=1e-4)
    assert 1e-5 < row.median < 1e-2
    unit = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    nearest = []
    for rows in unit:
        likeness = rows @ rows.T - 2 * np.eye(len(rows))
        nearest.append(likeness.argmax(axis=1))
    (near,) = (row for row in found.neighbours if row.output == "pooler_output")
    assert near.top1 == pytest.approx((nearest[0] == nearest[1]).mean(), abs=0.02)
    assert near.top1 > 0.8


def test_other_widths_have_neighbours_and_no_drift(repo: Path) -> None:
    found = compare.compare(repo / "vit", repo / "other", seconds=0)
    assert found.drift == ()
    assert all(row.mixed1 is None and row.top1 < 1 for row in found.neighbours)


def test_pictures_of_a_folder_and_json(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in cases.PHOTOGRAPHS[:3]:
        (tmp_path / name).write_bytes(cases.photograph_bytes(name))
    line = [
        "compare",
        str(repo / "vit"),
        str(repo / "rounded"),
        "--pictures",
        str(tmp_path),
        "--seconds",
        "0",
    ]
    assert main([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pictures"] == 3
    assert [one["model"] for one in told["costs"]] == ["vit/1", "rounded/1"]
    assert main(line) == 0
    shown = capsys.readouterr().out
    assert "rounded/1 against vit/1, 3 pictures" in shown
    assert "last_hidden_state" in shown


def test_what_cannot_be_compared_is_told(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="rows/1 takes no pictures"):
        compare.compare(repo / "vit", repo / "rows")
    (tmp_path / "one.jpg").write_bytes(cases.photograph_bytes(cases.PHOTOGRAPHS[0]))
    with pytest.raises(InvalidArgumentError, match=r"1 pictures in .*; neighbours take at least two"):
        compare.compare(repo / "vit", repo / "rounded", folder=tmp_path)
    (tmp_path / "two.jpg").write_bytes(b"no picture")
    with pytest.raises(InvalidArgumentError, match=r"two\.jpg"):
        compare.compare(repo / "vit", repo / "rounded", folder=tmp_path)
    with pytest.raises(InvalidArgumentError, match="no folder"):
        compare.compare(repo / "vit", repo / "rounded", folder=tmp_path / "none")
