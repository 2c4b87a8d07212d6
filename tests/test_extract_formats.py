"""Every format is read by its own library without vitral, by `open`, and as other libraries' data sets."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from extracting import pictures, run
from safetensors.numpy import load_file
from torch.utils.data import DataLoader

import vitral_extract
from vitral.errors import ArtifactError
from vitral_extract.formats import WRITERS
from vitral_extract.outlook import Wanted

BAD = (0, 9, 10)
NAMES = ("patch_embeddings.patches", "patch_embeddings.mean")


@pytest.fixture(scope="module")
def made(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One data set of 21 rows for each format, in float16. Read only."""
    folder = tmp_path_factory.mktemp("formats")
    source = pictures(folder / "in", 24, bad=BAD)
    for name in WRITERS:
        wanted = Wanted((str(source),), views=("patches", "mean"), format=name, shard_rows=8)
        run(folder / name, small_repo / "tiny", wanted)
    return {name: folder / name for name in WRITERS}


Rows = dict[str, tuple[np.ndarray, np.ndarray]]


def truth(made: dict[str, Path]) -> Rows:
    """Id to its two arrays, by plain safetensors and Arrow."""
    out = made["safetensors"]
    found: Rows = {}
    shards = {n: load_file(out / "data" / f"{n:06}.safetensors") for n in range(3)}
    for row in pq.read_table(out / "index.parquet").to_pylist():
        arrays = shards[row["shard"]]
        patches, mean = (arrays[name][row["row"]] for name in NAMES)
        found[row["id"]] = (patches, mean)
    return found


def test_safetensors_with_an_index(made: dict[str, Path]) -> None:
    rows = truth(made)

    assert list(rows) == [f"{number:05}.jpg" for number in range(24) if number not in BAD]
    assert {(a.shape, a.dtype.name, b.shape) for a, b in rows.values()} == {((16, 16), "float16", (16,))}
    assert len({a.tobytes() for a, _ in rows.values()}) == 21
    errors = pq.read_table(made["safetensors"] / "errors.parquet").to_pylist()
    assert [error["number"] for error in errors] == list(BAD)


def test_parquet_with_columns_of_bytes(made: dict[str, Path]) -> None:
    rows = truth(made)
    table = pq.read_table(made["parquet"] / "data")
    told = json.loads(table.schema.metadata[b"vitral"])

    assert told[NAMES[0]] == {"dtype": "float16", "shape": [16, 16]}
    assert table.column("id").to_pylist() == list(rows)
    for name, place in zip(NAMES, (0, 1), strict=True):
        shape = told[name]["shape"]
        for data, key in zip(table.column(name).to_pylist(), rows, strict=True):
            np.testing.assert_array_equal(
                np.frombuffer(data, told[name]["dtype"]).reshape(shape), rows[key][place]
            )


def test_npy(made: dict[str, Path]) -> None:
    rows = truth(made)
    for place, name in enumerate(NAMES):
        arrays = [np.load(made["npy"] / "data" / f"{n:06}.{name}.npy", mmap_mode="r") for n in range(3)]
        np.testing.assert_array_equal(np.concatenate(arrays), np.stack([row[place] for row in rows.values()]))


@pytest.mark.parametrize("name", WRITERS)
def test_open_gives_rows_by_position_and_by_id(made: dict[str, Path], name: str) -> None:
    rows, data = truth(made), vitral_extract.open(made[name])

    assert len(data) == 21
    assert data.ids == list(rows)
    assert (data.names, data.manifest["format"]) == (NAMES, name)
    for position, (key, arrays) in enumerate(rows.items()):
        for held in (data[position], data[position - 21], data[key]):
            np.testing.assert_array_equal(held[NAMES[0]], arrays[0])
            np.testing.assert_array_equal(held[NAMES[1]], arrays[1])
        assert data.id(position) == key
        assert key in data
    assert [key for key, _ in data] == list(rows)
    assert [error["reason"] for error in data.errors] == ["corrupt", "empty", "format"]
    assert "00000.jpg" not in data
    assert 3 not in data
    for missing, kind in (("00000.jpg", KeyError), (21, IndexError), (-22, IndexError)):
        with pytest.raises(kind):
            data[missing]


RESIDENT = """
import sys
from pathlib import Path
import vitral_extract

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

data = vitral_extract.open(sys.argv[1])
data[0]
before = resident()
data[len(data) - 1]
print(resident() - before)
"""


@pytest.mark.parametrize("name", WRITERS)
def test_a_row_is_read_without_its_shard(base_repo: Path, tmp_path: Path, name: str) -> None:
    source = pictures(tmp_path / "in", 4)
    for copy in range(4, 60):
        os.link(source / f"{copy % 4:05}.jpg", source / f"{copy:05}.jpg")
    wanted = Wanted((str(source),), format=name, dtype="float32", shard_rows=60)
    run(tmp_path / "out", base_repo / "patch-embedding", wanted)
    shard = max(path.stat().st_size for path in (tmp_path / "out" / "data").iterdir())
    line = [sys.executable, "-c", RESIDENT, str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)

    assert shard > 36e6
    assert int(done.stdout) < shard / 3


def test_a_data_set_that_is_not_there_or_not_finished(made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no finished data set: there is no manifest\.json"):
        vitral_extract.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read"):
        vitral_extract.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(ArtifactError, match="written by a newer vitral"):
        vitral_extract.open(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_torch_data_set_is_shared_by_workers(made: dict[str, Path], name: str) -> None:
    rows, data = truth(made), vitral_extract.open(made[name]).torch()
    assert isinstance(data, torch.utils.data.Dataset)
    assert torch.equal(data[3][NAMES[0]], torch.from_numpy(rows["00004.jpg"][0]))  # before the workers fork

    loaded = list(DataLoader(data, batch_size=5, num_workers=2, shuffle=False))

    assert [key for batch in loaded for key in batch["id"]] == list(rows)
    joined = torch.cat([batch[NAMES[0]] for batch in loaded])
    assert torch.equal(joined, torch.from_numpy(np.stack([row[0] for row in rows.values()])))
    again = pickle.loads(pickle.dumps(data))  # noqa: S301  # how spawned workers get it
    assert torch.equal(again[3][NAMES[1]], data[3][NAMES[1]])


@pytest.mark.parametrize("name", WRITERS)
def test_a_hugging_face_data_set(
    made: dict[str, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(key, value)
    rows, data = truth(made), vitral_extract.open(made[name]).hugging_face()

    assert len(data) == 21
    assert set(data[3]) == {"id", *NAMES}
    assert [row["id"] for row in data] == list(rows)
    np.testing.assert_array_equal(data[3][NAMES[0]], rows["00004.jpg"][0])
    part = data.select([20, 0])[:]
    assert part["id"] == ["00023.jpg", "00001.jpg"]
    np.testing.assert_array_equal(part[NAMES[1]][1], rows["00001.jpg"][1])
    copied = data.map(lambda row: {NAMES[1]: row[NAMES[1]]}, cache_file_name=str(tmp_path / "copied.arrow"))
    held = copied.with_format("numpy", columns=[NAMES[1]])[5][NAMES[1]]
    np.testing.assert_array_equal(held, rows["00006.jpg"][1])
