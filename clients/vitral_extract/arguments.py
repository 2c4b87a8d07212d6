"""The arguments of `vitral extract`. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.decode import MODES
from vitral.errors import InvalidArgumentError
from vitral_client.argument import height_width
from vitral_extract.choice import REPO

if TYPE_CHECKING:
    from vitral_extract.outlook import Limit


def add(parser: argparse.ArgumentParser) -> None:
    """Adds them, by group."""
    what = (
        "a folder, a picture, a glob, a list of paths (.txt, or - for standard input), a tar shard, a "
        "Parquet file; or `verify DIR`, `info DIR` about a data set"
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=what)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the data set; a run in it is resumed"
    )
    _add_model(parser.add_argument_group("the model"))
    _add_out(parser.add_argument_group("what is written"))
    _add_errors(parser.add_argument_group("pictures that fail"))
    _add_shown(parser.add_argument_group("what is shown"))


def _add_model(model: argparse._ArgumentGroup) -> None:
    where = f"{REPO}/NAME or {REPO}/NAME/VERSION, NAME with --server; needed where there are several"
    model.add_argument("--model", metavar="MODEL", help=where)
    model.add_argument(
        "--server", metavar="HOST:PORT", help="embed there, not here; several joined by commas"
    )
    model.add_argument("--device", default="auto", help="auto, cpu, cuda[:N] or tensorrt[:N], in process")
    model.add_argument(
        "--decode",
        choices=MODES,
        help="exact (default), or fast: large JPEGs at a fraction of their sides, with slightly other "
        "pixels; with --server, what the servers must do",
    )
    model.add_argument(
        "--size", type=_size, metavar="HxW", help="of the images, for models of dynamic size; default: native"
    )
    model.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="batches in work; default: one for each core, 4 for each server",
    )
    model.add_argument(
        "--batch", type=_positive, default=8, metavar="N", help="pictures of one run (default: 8)"
    )


def _add_out(out: argparse._ArgumentGroup) -> None:
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


def _add_errors(errors: argparse._ArgumentGroup) -> None:
    errors.add_argument("--on-error", choices=("skip", "fail"), default="skip", help="default: skip")
    errors.add_argument(
        "--max-errors", type=_limit, metavar="N|P%%", help="end the run when more have failed"
    )
    errors.add_argument(
        "--retry-failed", action="store_true", help="only what failed, in a finished data set"
    )


def _add_shown(shown: argparse._ArgumentGroup) -> None:
    shown.add_argument("--json", action="store_true", help="the summary as JSON")
    shown.add_argument("--quiet", action="store_true", help="only errors")
    shown.add_argument("--dry-run", action="store_true", help="say what would be done")
    shown.add_argument(
        "--sample", type=_whole, default=32, metavar="N", help="verify: pictures embedded again"
    )


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("nothing is named")
    return names


def _size(text: str) -> tuple[int, int]:
    try:
        return height_width(text)
    except InvalidArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
