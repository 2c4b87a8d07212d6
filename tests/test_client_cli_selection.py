"""What `vitral embed` selects, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import photographs
import pytest
from safetensors import safe_open
from serving import running

from vitral_client import Client, cli

PICTURE = str(photographs.ROCKET)


@pytest.fixture(scope="module")
def address(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(small_repo, log=tmp_path_factory.mktemp("log") / "log") as server:
        yield server.address


@pytest.fixture(scope="module")
def whole(address: str) -> np.ndarray:
    with Client(address) as client:
        return client.embed(PICTURE).patches


def test_rows_and_types_reach_the_file(address: str, whole: np.ndarray, tmp_path: Path, capsys) -> None:
    common = ["embed", PICTURE, "--server", address]
    assert cli.main([*common, "--patches", "3, 0", "-o", str(tmp_path / "some.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "some.npy")[0], whole[[3, 0]])
    assert cli.main([*common, "--view", "mean", "-o", str(tmp_path / "mean.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "mean.npy")[0], whole.mean(axis=0))
    chosen = ["--rect", "1,0,2,3", "--l2-normalize", "--dtype", "int8", "-o"]
    assert cli.main([*common, *chosen, str(tmp_path / "rect.npz")]) == 0
    rows = whole.reshape(4, 4, 16)[1:3, :3].reshape(6, 16)
    truth = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    with np.load(tmp_path / "rect.npz") as file:
        values, scales = file["rocket.jpg/patch_embeddings"], file["rocket.jpg/patch_embeddings.scale"]
    assert values.dtype == np.int8
    assert np.abs(values * scales[:, None] - truth).max() <= scales.max()
    assert cli.main([*common, *chosen, str(tmp_path / "rect.safetensors")]) == 0
    with safe_open(tmp_path / "rect.safetensors", "np") as file:
        said = file.metadata()["selection patch_embeddings"]
    assert said == "rectangle of 2 x 3 patches at row 1, column 0, unit length, int8"
    capsys.readouterr()
    assert cli.main([*common, "--view", "patches", "--dtype", "int8", "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    figures = image["outputs"]["patch_embeddings"]
    assert (figures["selection"], figures["dtype"]) == ("patches, int8", "int8")
    assert figures["mean"] == pytest.approx(float(whole.mean()), abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--view", "cls"], 1, "output patch_embeddings of model tiny has no CLS token"),
        (["--patches", "1,99"], 1, "patch 99 is asked for"),
        (["--rect", "0,0,9,1"], 1, "9 x 1 patches at row 0, column 0 reaches beyond the 4 x 4"),
        (["--rect", "0,0,9"], 1, "rect is (row, column, height, width)"),
        (["--rect", "0,0,1,1", "--patches", "1"], 2, "not allowed with argument"),
        (["--patches", "1,-2"], 2, "'1,-2' is not whole numbers joined by commas"),
        (["--view", "head"], 2, "invalid choice: 'head'"),
        (["--dtype", "int8", "-o", "x.npy"], 2, "int8 has scales beside it: use .npz"),
    ],
    ids=str,
)
def test_what_cannot_be_selected_is_one_line(
    address: str, flags: list[str], code: int, words: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["embed", PICTURE, "--server", address, *flags]) == code
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
