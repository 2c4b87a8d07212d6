"""A finished data set held against what it says of itself, and against the model again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from vitral.errors import ArtifactError
from vitral.tensors import Array
from vitral_extract import commit, shard
from vitral_extract.dataset import Dataset
from vitral_extract.embedder import Embedder
from vitral_extract.finish import ERRORS, INDEX
from vitral_extract.layout import Column, columns
from vitral_extract.listing import Listing
from vitral_extract.stages import Stages

RELATIVE = {"float16": 2.0**-10, "float32": 2.0**-18}
"""Relative L2 error that a row embedded again may have, by element type: rounding, and other batches."""

_SEED = 20_220_224


def verify(folder: Path, embedder: Embedder | None, *, sample: int) -> list[str]:
    """What is wrong with a data set, one sentence each; empty when nothing.

    Args:
        folder: of the data set.
        embedder: the model it was made with, to embed a sample again; None: without.
        sample: how many pictures are embedded again.

    Raises:
        ArtifactError: there is no finished data set.
    """
    data = Dataset(folder)
    problems = [*_counts(data), *_files(data)]
    if not problems:
        problems += _rows(data)
    if not problems and embedder is not None:
        problems += _again(data, embedder, sample)
    return problems


def _counts(data: Dataset) -> list[str]:
    """Every picture of the source is in the index or among the errors, once."""
    manifest, problems = data.manifest, []
    failed = pq.read_table(data.folder / ERRORS, columns=["number"]).column(0).to_numpy()
    there = pq.read_table(data.folder / INDEX, columns=["number"]).column(0).to_numpy()
    numbers = np.sort(np.concatenate([there, failed]))
    if len(numbers) != manifest["count"] or (numbers != np.arange(manifest["count"])).any():
        problems.append(
            f"{len(there)} rows and {len(failed)} errors are not the {manifest['count']} pictures"
        )
    if (len(there), len(failed)) != (manifest["rows"], manifest["errors"]):
        problems.append(f"the manifest says {manifest['rows']} rows and {manifest['errors']} errors")
    listing = Listing(data.folder)
    try:
        ids = iter(data.ids)
        lost = set(failed.tolist())
        for number, item in enumerate(listing):
            if number not in lost and next(ids, None) != item.id:
                problems.append(f"the index does not have {item.id} where the listing has it")
                break
    finally:
        listing.close()
    return problems


def _files(data: Dataset) -> list[str]:
    problems = []
    for part in data.manifest["shards"]:
        for name, digest in part["files"].items():
            path = data.folder / shard.DATA / name
            if not path.is_file():
                problems.append(f"{name} is missing")
            elif commit.sha256(path) != digest:
                problems.append(f"{name} is not what was written: its hash differs")
    return problems


def _rows(data: Dataset) -> list[str]:
    """Shapes and types of every row, and that all of it is finite."""
    told = {item["name"]: tuple(item["shape"]) for item in data.manifest["outputs"]}
    dtype, problems = data.manifest["dtype"], []
    for name, arrays in data:
        for column, array in arrays.items():
            if array.shape != told[column] or array.dtype != dtype:
                problems.append(
                    f"{name}: {column} is {array.dtype} {array.shape}, not {dtype} {told[column]}"
                )
            elif not np.isfinite(array).all():
                bad = int(np.count_nonzero(~np.isfinite(array)))
                problems.append(f"{name}: {column} holds NaN or Inf in {bad} of {array.size} elements")
        if len(problems) > 10:
            break
    return problems


def _again(data: Dataset, embedder: Embedder, sample: int) -> list[str]:
    """A sample of the pictures, embedded again."""
    manifest = data.manifest
    if embedder.spec.fingerprint != manifest["fingerprint"]:
        mine, its = embedder.spec.fingerprint[:12], manifest["fingerprint"][:12]
        return [f"the model has fingerprint {mine}, the data set was made with {its}"]
    found = _columns(data, embedder)
    picks = sorted(random.Random(_SEED).sample(range(len(data)), min(sample, len(data))))  # noqa: S311
    numbers = pq.read_table(data.folder / INDEX, columns=["number"]).column(0)
    listing, problems = Listing(data.folder), []
    try:
        for position in picks:
            number = numbers[position].as_py()
            item = listing.items(number, number + 1)[0]
            rows: dict[str, Array] = {
                column.name: np.empty((1, *column.shape), np.float32) for column in found
            }
            error = embedder.embed([item], found, rows, Stages())[0]
            if error is not None:
                problems.append(f"{item.id} cannot be embedded again: {error}")
                continue
            held = data[position]
            for column in found:
                gap = _relative(held[column.name], rows[column.name][0])
                if not gap <= RELATIVE[manifest["dtype"]]:
                    problems.append(f"{item.id}: {column.name} is {gap:.2e} from the same embedded again")
    finally:
        listing.close()
    return problems


def _columns(data: Dataset, embedder: Embedder) -> Sequence[Column]:
    found: list[Column] = []
    for item in data.manifest["outputs"]:
        mine = columns(embedder.spec, [item["output"]], [item["view"] or "all"])
        found += mine
    if [column.name for column in found] != list(data.names):
        raise ArtifactError(
            f"{data.folder} has arrays {', '.join(data.names)}, which the model does not give"
        )
    return found


def _relative(held: Array, again: Array) -> float:
    truth = again.astype(np.float64)
    norm = float(np.linalg.norm(truth))
    return float(np.linalg.norm(held.astype(np.float64) - truth)) / (norm or 1.0)
