"""The command `vitral extract`. Imported for `vitral --help`: everything heavy is imported when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.errors import InvalidArgumentError
from vitral_client.plugins import Command
from vitral_extract import arguments
from vitral_extract.choice import embedder_of

if TYPE_CHECKING:
    from vitral_extract.embedder import Embedder
    from vitral_extract.outlook import Wanted
    from vitral_extract.run import Done


def _run(args: argparse.Namespace) -> int:
    if args.sources[0] in ("verify", "info") and args.out is None:
        if len(args.sources) != 2:
            raise InvalidArgumentError(f"{args.sources[0]} takes one DIR, not {len(args.sources) - 1}")
        folder = Path(args.sources[1])
        from vitral_extract import data_commands as about

        verb = about.say_verified if args.sources[0] == "verify" else about.say_info
        return verb(folder, args)
    if args.out is None:
        raise InvalidArgumentError("name the folder of the data set with --out")
    embedder = embedder_of(args)
    try:
        wanted = _wanted(args)
        if args.dry_run:
            return _tell_outlook(args, wanted, embedder)
        return _extract(args, wanted, embedder)
    finally:
        embedder.close()


def _extract(args: argparse.Namespace, wanted: Wanted, embedder: Embedder) -> int:
    from vitral import spec as specs
    from vitral_extract import progress
    from vitral_extract.run import extract

    if specs.is_random(embedder.spec):
        note = embedder.spec.source.weights_note
        print(f"vitral: model {embedder.spec.name} has {note}: it was never trained", file=sys.stderr)
    if specs.is_unproven(embedder.spec):
        print(f"vitral: {specs.unproven(embedder.spec)}", file=sys.stderr)
    try:
        with progress.shown(sys.stderr, quiet=args.quiet) as watcher:
            done = extract(args.out, wanted, embedder, watcher)
    except KeyboardInterrupt:
        print(f"vitral: interrupted; the same command goes on with {args.out}", file=sys.stderr)
        raise
    _tell(args, done)
    return 0


def _tell(args: argparse.Namespace, finished: Done) -> None:
    from vitral_extract import progress

    manifest, work = finished.manifest, finished.work
    seconds = max(manifest["seconds"], 1e-3)
    done = work.tally.pictures if work is not None else 0
    if args.json:
        summary = {
            key: manifest[key] for key in ("count", "rows", "errors", "fingerprint", "provider", "seconds")
        }
        summary |= {
            "out": str(args.out),
            "embedded_now": done,
            "images_per_second": round(done / seconds, 2) if done else 0,
        }
        if work is not None:
            summary |= {"stages": dict(work.stages.seconds()), "bottleneck": work.stages.bottleneck()}
        print(json.dumps(summary, indent=1))
    if args.json or args.quiet:
        return
    speed = f", {done / seconds:.0f} images/s" if done else ""
    rows, failed, count = (manifest[key] for key in ("rows", "errors", "count"))
    print(f"{args.out}: {rows} rows and {failed} errors of {count} pictures{speed}")
    if work is not None and done:
        print(f"time of the workers: {progress.shares(work)}; bottleneck: {work.stages.bottleneck()}")
    if manifest["errors"]:
        print(f"why they failed stands in {args.out / 'errors.parquet'}; --retry-failed tries them again")


def _tell_outlook(args: argparse.Namespace, wanted: Wanted, embedder: Embedder) -> int:
    from vitral_extract import progress
    from vitral_extract.outlook import look

    outlook = look(args.out, wanted, embedder)
    arrays = {column.name: list(column.shape) for column in outlook.columns}
    if args.json:
        told = {"pictures": outlook.pictures, "bytes": outlook.bytes, "free": outlook.free, "arrays": arrays}
        print(json.dumps({**told, "resumed": outlook.resumed, "count": outlook.settings.count}, indent=1))
        return 0
    verb = "would go on with" if outlook.resumed else "would make"
    print(f"{verb} {args.out}: {outlook.pictures} of {outlook.settings.count} pictures")
    for name, shape in arrays.items():
        print(f"  {name}: {' x '.join(map(str, shape))} {wanted.dtype} a picture")
    print(f"  {progress.size(outlook.bytes)} of {progress.size(outlook.free)} free")
    return 0


def _wanted(args: argparse.Namespace) -> Wanted:
    from vitral_extract.outlook import Limit, Wanted
    from vitral_extract.parquet import Columns

    limit: Limit = args.max_errors or Limit()
    if args.on_error == "fail":
        limit = Limit(number=0)
    return Wanted(
        sources=tuple(args.sources),
        columns=Columns(image=args.image_column, id=args.id_column),
        outputs=args.outputs,
        views=args.views,
        dtype=args.dtype,
        format=args.format,
        batch=args.batch,
        shard_rows=args.shard_rows,
        limit=limit,
        retry_failed=args.retry_failed,
    )


extract = Command(
    summary="embed many pictures into a data set, exactly once, resumable",
    extra="extract",
    packages=("blake3", "pyarrow", "rich", "safetensors", "PIL"),
    add_arguments=arguments.add,
    run=_run,
)
"""`vitral extract`."""
