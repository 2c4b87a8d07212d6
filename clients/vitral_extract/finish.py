"""The last files of a run: who is where, who failed and why, and what was done with what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf import json_format

from vitral import __version__
from vitral import spec as specs
from vitral.errors import ArtifactError
from vitral.v1 import model_pb2 as pb
from vitral_extract import commit
from vitral_extract.embedder import Embedder
from vitral_extract.layout import Column
from vitral_extract.listing import FILE as LISTING
from vitral_extract.listing import Listing
from vitral_extract.plan import failure_numbers
from vitral_extract.settings import SCHEMA, Settings
from vitral_extract.shard import Committed, Failure

INDEX, ERRORS, MANIFEST = "index.parquet", "errors.parquet", "manifest.json"
"""Files at the top of a finished data set."""

_LIBRARIES = ("pyarrow",)
_INDEX = pa.schema([("id", pa.string()), ("number", pa.int64()), ("shard", pa.int32()), ("row", pa.int32())])
_ERRORS = pa.schema(
    [
        ("id", pa.string()),
        ("number", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
    ]
)
_GROUP = 65_536


def finish(
    folder: Path,
    settings: Settings,
    columns: Sequence[Column],
    done: Mapping[int, Committed],
    *,
    embedder: Embedder,
    seconds: float,
) -> dict[str, Any]:
    """Writes index, errors and manifest, and returns the manifest.

    Raises:
        ArtifactError: pictures were lost or counted twice.
    """
    # Without a manifest a data set is not finished: no index of now stands beside a manifest of before.
    (folder / MANIFEST).unlink(missing_ok=True)
    commit.sync(folder)
    failures = failures_of(done)
    rows = write_index(folder, done)
    if rows + len(failures) != settings.count:
        message = f"{rows} rows and {len(failures)} errors of {settings.count} pictures"
        raise ArtifactError(f"{folder} does not add up: {message}")
    write_errors(folder, done)
    manifest = {
        **_facts(settings, columns, embedder),
        "provider": ", ".join(sorted({one.provider for one in done.values()})),
        "libraries": {
            **embedder.libraries,
            **{name: metadata.version(name) for name in _LIBRARIES},
            "vitral": __version__,
        },
        "rows": rows,
        "errors": len(failures),
        "hash": commit.HASH,
        "files": {name: commit.hash_of(folder / name) for name in (LISTING, INDEX, ERRORS)},
        "shards": _shards(done),
        "seconds": round(seconds, 3),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    commit.write(folder / MANIFEST, (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
    return manifest


def write_errors(folder: Path, done: Mapping[int, Committed]) -> None:
    """Writes errors.parquet: the pictures without a row, in the order of the listing."""
    with commit.aside(folder / ERRORS) as path:
        pq.write_table(pa.Table.from_pylist([vars(item) for item in failures_of(done)], _ERRORS), path)


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished data set; None where there is none.

    Raises:
        ArtifactError: it cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        if manifest["schema"] > SCHEMA:
            raise ArtifactError(f"{path} was written by a newer vitral: upgrade vitral")
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} cannot be read: {error!r}") from None
    return manifest


def current(folder: Path, done: Mapping[int, Committed]) -> dict[str, Any] | None:
    """The manifest, where it is that of exactly these shards and this listing, else None.

    A run may have died before it wrote its own, and a source may have been moved.
    """
    manifest = manifest_of(folder)
    if manifest is None or manifest.get("shards") != _shards(done):
        return None
    if not all((folder / name).is_file() for name in manifest["files"]):
        return None
    return manifest if manifest["files"][LISTING] == commit.hash_of(folder / LISTING) else None


def failures_of(done: Mapping[int, Committed]) -> list[Failure]:
    """The pictures without a row, each with its last error, in the order of the listing."""
    failed = failure_numbers(done)
    last = {item.number: item for _, one in sorted(done.items()) for item in one.failures}
    return [last[number] for number in sorted(failed)]


def write_index(folder: Path, done: Mapping[int, Committed]) -> int:
    """Writes index.parquet in the order of the listing, and returns its rows."""
    listing, rows = Listing(folder / LISTING), 0
    places = _places(done)
    try:
        with commit.aside(folder / INDEX) as path, pq.ParquetWriter(path, _INDEX) as writer:
            batch: list[tuple[str, int, int, int]] = []
            for number, item in enumerate(listing):
                place = next(places)
                if place is not None:
                    batch.append((item.id, number, *place))
                    rows += 1
                if len(batch) == _GROUP:
                    writer.write_table(_table(batch))
                    batch = []
            writer.write_table(_table(batch))
    finally:
        listing.close()
    return rows


def _places(done: Mapping[int, Committed]) -> Iterator[tuple[int, int] | None]:
    """Shard and row of each picture in the order of the listing; None where there is none."""
    made_good: dict[int, tuple[int, int]] = {}
    for number, one in sorted(done.items()):
        failed = {item.number for item in one.failures}
        row = 0
        for picture in one.retried:
            if picture not in failed:
                made_good[picture] = (number, row)
                row += 1
    for number, one in sorted(done.items()):
        if one.retried:
            continue
        failed = {item.number for item in one.failures}
        row = 0
        for picture in range(one.first, one.first + one.count):
            if picture in failed:
                yield made_good.get(picture)
            else:
                yield number, row
                row += 1


def _table(batch: Sequence[tuple[str, int, int, int]]) -> pa.Table:
    columns = list(zip(*batch, strict=True)) or [()] * len(_INDEX)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, _INDEX, strict=True)], _INDEX
    )


def _shards(done: Mapping[int, Committed]) -> list[dict[str, Any]]:
    return [{"number": key, "rows": one.rows, "files": dict(one.files)} for key, one in sorted(done.items())]


def _facts(settings: Settings, columns: Sequence[Column], embedder: Embedder) -> dict[str, Any]:
    """What the rows are, whatever their number."""
    spec = embedder.spec
    grid = spec.architecture.grid
    return {
        "schema": SCHEMA,
        **asdict(settings),
        "outputs": [
            {"name": column.name, "output": column.output, "view": column.view, "shape": list(column.shape)}
            for column in columns
        ],
        "grid": [grid.height, grid.width],
        "prefix_tokens": {
            item.name: [
                pb.PrefixToken.Name(token).removeprefix("PREFIX_TOKEN_").lower()
                for token in item.prefix_tokens
            ]
            for item in spec.outputs
        },
        "proof": {
            "status": "unproven" if specs.is_unproven(spec) else "proven",
            "note": spec.proof.note,
        },
        "weights": json_format.MessageToDict(spec.source, preserving_proto_field_name=True),
    }
