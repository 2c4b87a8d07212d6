"""The command `vitral extract`. Imported for `vitral --help`: everything heavy is imported when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.errors import InvalidArgumentError
from vitral_client.plugins import Command

if TYPE_CHECKING:
    from vitral_extract.embedder import Embedder
    from vitral_extract.outlook import Limit, Wanted
    from vitral_extract.run import Done

REPO = Path("models")
"""Where a model is looked for when none is named."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    what = (
        "a folder, a picture, a glob, a list of paths (.txt, or - for standard input), a tar shard, a "
        "Parquet file; or `verify DIR`, `info DIR` about a data set"
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=what)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the data set; a run in it is resumed"
    )
    model = parser.add_argument_group("the model")
    where = f"{REPO}/NAME or {REPO}/NAME/VERSION, NAME with --server; needed where there are several"
    model.add_argument("--model", metavar="MODEL", help=where)
    model.add_argument(
        "--server", metavar="HOST:PORT", help="embed there, not here; several joined by commas"
    )
    model.add_argument("--device", default="auto", help="auto, cpu or cuda[:N], in process")
    model.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="threads; default: one for each core, with --server 4 requests for each",
    )
    model.add_argument(
        "--batch", type=_positive, default=8, metavar="N", help="pictures of one run (default: 8)"
    )
    out = parser.add_argument_group("what is written")
    out.add_argument("--outputs", type=_names, default=(), metavar="A,B", help="default: the model's own")
    views = "of token sequences: patches (default), cls, mean, all"
    out.add_argument("--views", type=_names, default=("patches",), metavar="V,W", help=views)
    out.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    out.add_argument("--format", choices=("safetensors", "parquet", "npy"), default="safetensors")
    out.add_argument(
        "--shard-rows", type=_positive, default=0, metavar="N", help="default: about 64 MiB a shard"
    )
    out.add_argument("--image-column", metavar="C", help="of Parquet sources: bytes, or paths")
    out.add_argument("--id-column", metavar="C", help="of Parquet sources")
    errors = parser.add_argument_group("pictures that fail")
    errors.add_argument("--on-error", choices=("skip", "fail"), default="skip", help="default: skip")
    errors.add_argument(
        "--max-errors", type=_limit, metavar="N|P%%", help="end the run when more have failed"
    )
    errors.add_argument(
        "--retry-failed", action="store_true", help="only what failed, in a finished data set"
    )
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--json", action="store_true", help="the summary as JSON")
    shown.add_argument("--quiet", action="store_true", help="only errors")
    shown.add_argument("--dry-run", action="store_true", help="say what would be done")
    shown.add_argument(
        "--sample", type=_whole, default=32, metavar="N", help="verify: pictures embedded again"
    )


def _run(args: argparse.Namespace) -> int:
    if args.sources[0] in ("verify", "info") and args.out is None:
        if len(args.sources) != 2:
            raise InvalidArgumentError(f"{args.sources[0]} takes one DIR, not {len(args.sources) - 1}")
        folder = Path(args.sources[1])
        return _verify(folder, args) if args.sources[0] == "verify" else _info(folder, args)
    if args.out is None:
        raise InvalidArgumentError("name the folder of the data set with --out")
    embedder = _embedder(args)
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


def _verify(folder: Path, args: argparse.Namespace) -> int:
    from vitral_extract.dataset import open as open_dataset
    from vitral_extract.verify import verify

    data = open_dataset(folder)
    embedder = None
    if args.model or args.server or _beside(data.manifest["model"], data.manifest["version"]):
        if not args.server and not args.model:
            args.model = str(_beside(data.manifest["model"], data.manifest["version"]))
        elif not args.model:
            args.model = data.manifest["model"]
        embedder = _embedder(args)
    try:
        problems = verify(folder, embedder, sample=args.sample)
    finally:
        if embedder is not None:
            embedder.close()
    for problem in problems:
        print(f"vitral: {folder}: {problem}", file=sys.stderr)
    sampled = min(args.sample, len(data)) if embedder is not None else 0
    if args.json:
        print(json.dumps({"rows": len(data), "embedded_again": sampled, "problems": problems}, indent=1))
    elif not problems:
        again = f"{sampled} embedded again" if sampled else "none embedded again: name the model with --model"
        print(f"{folder}: {len(data)} rows whole; {again}")
    return 1 if problems else 0


def _beside(model: str, version: str) -> Path | None:
    path = REPO / model / version
    return path if path.is_dir() else None


def _info(folder: Path, args: argparse.Namespace) -> int:
    from vitral_extract.dataset import open as open_dataset

    manifest = {key: value for key, value in open_dataset(folder).manifest.items() if key != "shards"}
    if args.json:
        print(json.dumps(manifest, indent=1, ensure_ascii=False))
        return 0
    width = max(map(len, manifest))
    for key, value in manifest.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(f"{key:<{width}}  {text}")
    return 0


def _embedder(args: argparse.Namespace) -> Embedder:
    if args.server:
        from vitral_extract.remote import Remote

        return Remote(args.server, model=args.model, timeout=60.0, workers=args.workers or 0)
    from vitral_engine.artifact import models
    from vitral_engine.runtime import cpu_count
    from vitral_extract.embedder import InProcess

    if args.model is None:
        found = models(REPO) if REPO.is_dir() else []
        if len(found) != 1:
            said = (
                f"{REPO} holds {len(found)}: {', '.join(map(str, found))}" if found else f"{REPO} holds none"
            )
            raise InvalidArgumentError(f"name the model with --model; {said}")
        args.model = str(found[0])
    return InProcess(Path(args.model), device=args.device, workers=args.workers or cpu_count())


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


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("nothing is named")
    return names


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no positive whole number")
    return int(text)


def _limit(text: str) -> Limit:
    from vitral_extract.outlook import Limit

    share = text.endswith("%")
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither a number nor a percentage") from None
    if value < 0 or (not share and value != int(value)):
        raise argparse.ArgumentTypeError(f"{text} is neither a whole number nor a percentage")
    return Limit(share=value / 100) if share else Limit(number=int(value))


extract = Command(
    summary="embed many pictures into a data set, exactly once, resumable",
    extra="extract",
    packages=("pyarrow", "rich", "safetensors", "PIL"),
    add_arguments=_add_arguments,
    run=_run,
)
"""`vitral extract`."""
