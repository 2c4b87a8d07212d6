"""The files of a shard are those their own libraries write and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from safetensors.numpy import load_file, save

from vitral_extract.formats import WRITERS

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "rows",
    [
        {"out.patches": RNG.standard_normal((3, 7, 5)).astype(np.float16)},
        {name: RNG.standard_normal((5, 3)).astype(np.float32) for name in ("b", "a", "그림")},
        {"half": np.zeros((2, 3), np.float16), "wide": np.ones((2, 1), np.float32)},
        {"none": np.empty((0, 4), np.float16)},
        {"large": RNG.standard_normal((9, 70_001)).astype(np.float16)[::2]},
    ],
    ids=["one", "names", "types", "empty", "chunks"],
)
def test_a_safetensors_shard_is_byte_for_byte_the_librarys(
    rows: dict[str, np.ndarray], tmp_path: Path
) -> None:
    files = WRITERS["safetensors"](tmp_path, "000000", ["id"] * len(next(iter(rows.values()))), rows)
    path = tmp_path / "000000.safetensors"
    written = path.read_bytes()

    assert written == save({name: np.ascontiguousarray(array) for name, array in rows.items()})
    assert files == {path.name: blake3(written).hexdigest()}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    for name, array in load_file(path).items():
        np.testing.assert_array_equal(array, rows[name])
