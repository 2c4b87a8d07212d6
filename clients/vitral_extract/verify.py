"""A finished data set held against what it says of itself, and against the model again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError

from vitral.decode import EXACT
from vitral.errors import ArtifactError
from vitral.tensors import Array
from vitral_extract import commit, finish, shard
from vitral_extract.dataset import Dataset
from vitral_extract.embedder import Embedder
from vitral_extract.layout import Column, columns
from vitral_extract.listing import FILE as LISTING
from vitral_extract.listing import Listing, facts_of
from vitral_extract.stages import Stages

RELATIVE = {"float16": 2.0**-10, "float32": 2.0**-18}
"""Relative L2 error that a row embedded again may have, by element type: rounding, and other batches."""

_SMALLEST = 2.0**-24  # of float16: what lies below is rounded to a multiple of it
_SHOWN = 10


def verify(folder: Path, embedder: Embedder | None, *, sample: int) -> list[str]:
    """What is wrong with a data set, one sentence each; empty when nothing.

    Args:
        folder: of the data set.
        embedder: the model it was made with, to embed a sample again; None: without.
        sample: how many pictures, drawn anew each time, are embedded again.

    Raises:
        ArtifactError: there is no finished data set.
    """
    data = Dataset(folder)
    problems = list(_files(data))
    if not problems:
        problems += _counts(data)
    if not problems:
        problems += _rows(data)
    if not problems and embedder is not None:
        problems += _again(data, embedder, sample)
    return problems


def _files(data: Dataset) -> Iterator[str]:
    """Every file is what was written, and manifest and commits say the same of them."""
    manifest, folder = data.manifest, data.folder
    if finish.current(folder, shard.committed(folder)) is None:
        yield f"{finish.MANIFEST} does not say of the shards what {shard.COMMITS}/ says"
    named = [(folder / name, digest) for name, digest in manifest["files"].items()]
    named += [
        (folder / shard.DATA / name, digest)
        for part in manifest["shards"]
        for name, digest in part["files"].items()
    ]
    for path, digest in named:
        if not path.is_file():
            yield f"{path.name} is missing"
        elif commit.hash_of(path) != digest:
            yield f"{path.name} is not what was written: its hash differs"


def _counts(data: Dataset) -> Iterator[str]:
    """Every picture of the source is in the index or among the errors, once, and where the shards have it."""
    manifest = data.manifest
    failed = sorted(error["number"] for error in data.errors)
    there = data.column("number")
    numbers = np.sort(np.concatenate([there, np.array(failed, np.int64)]))
    if len(numbers) != manifest["count"] or (numbers != np.arange(manifest["count"])).any():
        yield f"{len(there)} rows and {len(failed)} errors are not the {manifest['count']} pictures"
    if (len(there), len(failed)) != (manifest["rows"], manifest["errors"]):
        yield f"the manifest says {manifest['rows']} rows and {manifest['errors']} errors"
    places = set(zip(data.column("shard").tolist(), data.column("row").tolist(), strict=True))
    wanted = {(part["number"], row) for part in manifest["shards"] for row in range(part["rows"])}
    if len(places) != len(data) or places != wanted:
        yield f"the index points to {len(places & wanted)} of {len(wanted)} rows that the shards hold"
    listing = Listing(data.folder / LISTING)
    try:
        if facts_of(listing, {}).sha256 != manifest["source"]:
            yield f"{LISTING} is not the one of the source"
        ids, lost = iter(data.ids), set(failed)
        for number, item in enumerate(listing):
            if number not in lost and next(ids, None) != item.id:
                yield f"the index does not have {item.id} where the listing has it"
                return
    finally:
        listing.close()


def _rows(data: Dataset) -> list[str]:
    """Shapes and types of every row, and that all of it is finite."""
    told = {item["name"]: tuple(item["shape"]) for item in data.manifest["outputs"]}
    dtype = data.manifest["dtype"]
    problems: list[str] = []
    try:
        for name, arrays in data:
            for column, array in arrays.items():
                if array.shape != told[column] or array.dtype != dtype:
                    what = f"{array.dtype} {array.shape}, not {dtype} {told[column]}"
                    problems.append(f"{name}: {column} is {what}")
                elif bad := int(np.count_nonzero(~np.isfinite(array))):
                    problems.append(f"{name}: {column} holds NaN or Inf in {bad} of {array.size} elements")
            if len(problems) >= _SHOWN:
                break
    except (OSError, ValueError, IndexError, KeyError, pa.ArrowException, SafetensorError) as error:
        problems.append(f"a shard cannot be read: {error}")
    return problems


def _again(data: Dataset, embedder: Embedder, sample: int) -> list[str]:
    """A sample of the pictures, embedded again."""
    manifest = data.manifest
    if embedder.spec.fingerprint != manifest["fingerprint"]:
        mine, its = embedder.spec.fingerprint[:12], manifest["fingerprint"][:12]
        return [f"the model has fingerprint {mine}, the data set was made with {its}"]
    if embedder.decode != (its := manifest.get("decode", EXACT)):
        return [f"the data set was made with decode {its}, and is embedded again with {embedder.decode}"]
    found = _columns(data, embedder)
    picks = sorted(random.SystemRandom().sample(range(len(data)), min(sample, len(data))))
    numbers, problems = data.column("number"), []
    listing = Listing(data.folder / LISTING)
    try:
        for position in picks:
            number = int(numbers[position])
            item = listing.items(number, number + 1)[0]
            rows: dict[str, Array] = {
                column.name: np.empty((1, *column.shape), manifest["dtype"]) for column in found
            }
            error = embedder.embed([item], found, rows, Stages())[0]
            if error is not None:
                problems.append(f"{item.id} cannot be embedded again: {error}")
                continue
            held = data[position]
            for column in found:
                gap, most = _gap(held[column.name], rows[column.name][0])
                if not gap <= most:
                    said = f"{gap:.2e} from the same embedded again, over {most:.2e}"
                    problems.append(f"{item.id}: {column.name} is {said}")
    finally:
        listing.close()
    return problems


def _columns(data: Dataset, embedder: Embedder) -> Sequence[Column]:
    found: list[Column] = []
    for item in data.manifest["outputs"]:
        found += columns(embedder.spec, [item["output"]], [item["view"] or "all"])
    if [column.name for column in found] != list(data.names):
        raise ArtifactError(
            f"{data.folder} has arrays {', '.join(data.names)}, which the model does not give"
        )
    return found


def _gap(held: Array, again: Array) -> tuple[float, float]:
    """L2 distance of two rows, and the most it may be."""
    truth: np.ndarray[Any, np.dtype[np.float64]] = again.astype(np.float64)
    most = RELATIVE[again.dtype.name] * float(np.linalg.norm(truth))
    if again.dtype == np.float16:
        most += _SMALLEST * truth.size**0.5
    return float(np.linalg.norm(held.astype(np.float64) - truth)), most
