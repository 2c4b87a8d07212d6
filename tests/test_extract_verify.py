"""`verify` catches every way in which a data set is not what it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from extracting import pictures, run
from safetensors.numpy import load_file, save_file

import vitral_extract
from vitral.errors import ArtifactError
from vitral_export import export
from vitral_export.modules import PatchEmbedding
from vitral_extract import commit
from vitral_extract.embedder import InProcess
from vitral_extract.outlook import Wanted
from vitral_extract.verify import verify

NAME = "patch_embeddings.patches"


@pytest.fixture(scope="module")
def whole(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 22 rows in three shards. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    source = pictures(folder / "in", 24, bad=(2, 9))
    run(folder / "out", small_repo / "tiny", Wanted((str(source),), shard_rows=8))
    return folder / "out"


def problems(out: Path, model: Path, *, sample: int = 100) -> list[str]:
    embedder = InProcess(model, device="cpu", workers=1)
    try:
        return verify(out, embedder, sample=sample)
    finally:
        embedder.close()


def shard(out: Path, number: int) -> Path:
    return out / "data" / f"{number:06}.safetensors"


def told(out: Path, path: Path) -> None:
    """Manifest and commits say that the file is as it is now."""
    digest = commit.hash_of(path)
    manifest = json.loads((out / "manifest.json").read_bytes())
    if path.parent == out:
        manifest["files"][path.name] = digest
    for part in manifest["shards"]:
        if path.name in part["files"]:
            part["files"][path.name] = digest
            record = out / "commits" / f"{part['number']:06}.json"
            record.write_text(json.dumps({**json.loads(record.read_bytes()), "files": part["files"]}))
    (out / "manifest.json").write_text(json.dumps(manifest))


def rewrite(out: Path, number: int, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """A shard with other values, of which every hash says that it is right."""
    arrays = load_file(shard(out, number))
    array = arrays[NAME].copy()
    changed = change(array)
    save_file({NAME: array if changed is None else np.ascontiguousarray(changed)}, shard(out, number))
    told(out, shard(out, number))


def reindex(out: Path, change: Callable[[dict[str, list]], None], *, hashed: bool = True) -> None:
    path = out / "index.parquet"
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    pq.write_table(pa.table(columns, table.schema), path)
    if hashed:
        told(out, path)


def put(name: str, place: int, value: object) -> Callable[[dict[str, list]], None]:
    return lambda columns: columns[name].__setitem__(place, value)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def swap_files(out: Path) -> None:
    spare = out / "spare"
    shard(out, 0).rename(spare), shard(out, 1).rename(shard(out, 0)), spare.rename(shard(out, 1))


def swap(columns: dict[str, list], *names: str) -> None:
    for name in names:
        values = columns[name]
        values[4], values[5] = values[5], values[4]


def nan(array: np.ndarray) -> None:
    array[3, 2, 1] = np.nan


def drop_error(out: Path) -> None:
    path = out / "errors.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    told(out, path)


def edit_listing(out: Path) -> None:
    path = out / "listing.parquet"
    table = pq.read_table(path)
    sizes = pa.array([1, *table.column("size").to_pylist()[1:]])
    pq.write_table(table.set_column(table.schema.names.index("size"), "size", sizes), path)
    told(out, path)


def edit_manifest(out: Path) -> None:
    path = out / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 22', '"rows": 21'))


def again(array: np.ndarray) -> None:
    array[4] = array[5]


def infinite(array: np.ndarray) -> None:
    array[0, 0, 0] = np.inf


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (lambda out: flip(shard(out, 1)), "000001.safetensors is not what was written"),
    "a deleted shard": (lambda out: shard(out, 2).unlink(), "000002.safetensors is missing"),
    "a swapped pair": (swap_files, "000000.safetensors is not what was written"),
    "an edited index": (
        lambda out: reindex(out, put("row", 3, 4), hashed=False),
        "index.parquet is not what",
    ),
    "ids exchanged": (lambda out: reindex(out, lambda c: swap(c, "id")), "does not have 00005.jpg"),
    "an id renamed": (
        lambda out: reindex(out, put("id", 7, "x")),
        "does not have 00008.jpg",
    ),
    "rows exchanged": (lambda out: reindex(out, lambda c: swap(c, "row")), "from the same embedded again"),
    "a row twice": (
        lambda out: reindex(out, put("row", 1, 0)),
        "points to 21 of 22 rows",
    ),
    "numbers twice": (lambda out: reindex(out, put("number", 1, 0)), "are not the 24"),
    "a NaN": (lambda out: rewrite(out, 1, nan), f"{NAME} holds NaN or Inf in 1 of 256 elements"),
    "an Inf": (lambda out: rewrite(out, 0, infinite), f"{NAME} holds NaN or Inf in 1 of 256 elements"),
    "another shape": (lambda out: rewrite(out, 1, lambda a: a[:, :8]), f"{NAME} is float16 (8, 16), not"),
    "another dtype": (
        lambda out: rewrite(out, 1, lambda a: a.astype("f4")),
        f"{NAME} is float32",
    ),
    "a short shard": (lambda out: rewrite(out, 2, lambda a: a[:-1]), "a shard cannot be read"),
    "a picture's row for another's": (lambda out: rewrite(out, 1, again), "from the same embedded again"),
    "an error left out": (drop_error, "22 rows and 1 errors are not the 24 pictures"),
    "another listing": (edit_listing, "listing.parquet is not the one of the source"),
    "another manifest": (edit_manifest, "the manifest says 21 rows"),
    "a commit that is gone": (
        lambda out: (out / "commits" / "000001.json").unlink(),
        "manifest.json does not say of the shards what commits/ says",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(whole: Path, small_repo: Path, tmp_path: Path, fault: str) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    plant, said = FAULTS[fault]
    plant(out)

    assert any(said in problem for problem in problems(out, small_repo / "tiny")), fault


def test_what_is_whole_is_whole(whole: Path, small_repo: Path) -> None:
    assert problems(whole, small_repo / "tiny") == []
    assert verify(whole, None, sample=0) == []


def test_another_model_is_told_by_its_fingerprint(whole: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    export(PatchEmbedding(img_size=32, patch_size=8, embed_dim=16), name="tiny", repo=tmp_path)
    mine = vitral_extract.open(whole).manifest["fingerprint"][:12]

    [problem] = problems(whole, tmp_path / "tiny")

    assert problem.startswith("the model has fingerprint ")
    assert problem.endswith(f"the data set was made with {mine}")


def test_a_source_that_changed_is_a_picture_that_differs(small_repo: Path, tmp_path: Path) -> None:
    source = pictures(tmp_path / "in", 6)
    run(tmp_path / "out", small_repo / "tiny", Wanted((str(source),)))
    shutil.copy(source / "00001.jpg", source / "00002.jpg")
    (source / "00004.jpg").unlink()

    found = problems(tmp_path / "out", small_repo / "tiny")

    assert len(found) == 2
    assert found[0].startswith(f"00002.jpg: {NAME} is ")
    assert "00004.jpg cannot be embedded again: cannot read" in found[1]
    assert verify(tmp_path / "out", None, sample=0) == []


def test_values_below_float16s_normal_range_are_no_fault(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = PatchEmbedding(img_size=32, patch_size=8, embed_dim=16)
    with torch.no_grad():
        module.projection.weight.mul_(1e-6)
        module.projection.bias.mul_(1e-6)
    export(module, name="faint", repo=tmp_path / "models")
    run(tmp_path / "out", tmp_path / "models" / "faint", Wanted((str(pictures(tmp_path / "in", 6)),)))

    assert np.abs(vitral_extract.open(tmp_path / "out")[0][NAME]).max() < 2.0**-14
    assert problems(tmp_path / "out", tmp_path / "models" / "faint") == []


def test_an_index_that_is_no_parquet_is_said_in_words(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    (out / "index.parquet").write_bytes(b"no")
    with pytest.raises(ArtifactError, match=r"index\.parquet cannot be read"):
        verify(out, None, sample=0)
