"""The `vitral` command: embed pictures, list models, ask for health.

Exit codes: 0, 1 failure, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vitral import __version__
from vitral import spec as specs
from vitral.errors import ImageError, InvalidArgumentError, VitralError
from vitral.results import Embedding
from vitral.selection import DTYPES, VIEWS
from vitral_client import argument, plugins, save, show
from vitral_client.channel import DEFAULT_ADDRESS
from vitral_client.client import Client
from vitral_client.health import Health
from vitral_client.image import Image

IMAGES_A_REQUEST = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    try:
        args = _parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        code = run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the flush at exit complains once more
        return 1
    except (VitralError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130


def embed(args: argparse.Namespace) -> int:
    """`vitral embed`."""
    if args.images.count("-") > 1:
        return _usage("standard input can be one image only")
    if args.output is not None:
        try:
            save.check_target(args.output, dtype=args.dtype)
        except InvalidArgumentError as error:
            return _usage(str(error))
    packages = [] if args.json or args.output else ["rich"]
    if args.output is not None and args.output.suffix == ".safetensors":
        packages.append("safetensors")
    if missing := _missing(packages):
        return _fail(missing)
    images: list[Image] = [sys.stdin.buffer.read() if name == "-" else Path(name) for name in args.images]
    with Client(args.server, timeout=args.timeout) as client:
        results = list(
            client.embed_iter(
                images,
                model=args.model,
                outputs=args.outputs,
                view=args.view,
                patches=args.patches,
                rect=args.rect,
                l2_normalize=args.l2_normalize,
                dtype=args.dtype,
                size=args.size,
                batch=IMAGES_A_REQUEST,
            )
        )
    return _report(dict(zip(save.keys(args.images), results, strict=True)), args)


def models(args: argparse.Namespace) -> int:
    """`vitral models`."""
    if not args.json and (missing := _missing(["rich"])):
        return _fail(missing)
    with Client(args.server, timeout=args.timeout) as client:
        found = client.models()
    if args.json:
        show.models_json(found)
    else:
        show.models_table(found)
    return 0


def health(args: argparse.Namespace) -> int:
    """`vitral health`: 0 only when serving."""
    with Client(args.server, timeout=args.timeout) as client:
        answer = client.health(args.model)
    print(answer)
    return 0 if answer is Health.SERVING else 1


def _report(results: dict[str, Embedding | ImageError], args: argparse.Namespace) -> int:
    good = {key: result for key, result in results.items() if isinstance(result, Embedding)}
    for key, result in results.items():
        if isinstance(result, ImageError):
            _fail(f"{key}: {result}")
    if first := next(iter(good.values()), None):
        if specs.is_random(first.spec):
            note = first.spec.source.weights_note or show.RANDOM
            print(f"vitral: model {first.model} has {note}: it was never trained", file=sys.stderr)
        if first.unproven:
            print(f"vitral: {specs.unproven(first.spec)}", file=sys.stderr)
        if args.output is not None:
            save.save(args.output, results)
    file = str(args.output) if args.output is not None and good else None
    if args.json:
        show.embeddings_json(results, file)
    elif file:
        print(f"{len(good)} of {len(results)} images in {file}")
    elif good:
        show.embeddings_table(good)
    return 0 if len(good) == len(results) else 1


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vitral", description="Images in, patch-embedding tensors out.")
    parser.add_argument("--version", action="version", version=f"vitral {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = _command(commands, "embed", embed, "embed pictures")
    one.add_argument("images", nargs="+", metavar="IMAGE", help="image file; - for standard input")
    one.add_argument("--model", help="NAME or NAME/VERSION; needed where several are served")
    one.add_argument(
        "--outputs", type=_names, metavar="A,B", help="outputs; the model's defaults where absent"
    )
    _add_rows(one)
    size = "size of the images, for models of dynamic size; the native one where absent"
    one.add_argument("--size", type=_size, metavar="HxW", help=size)
    one.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help=f"file to write: {', '.join(save.FORMATS)}"
    )
    one.add_argument("--json", action="store_true", help="print JSON")
    listing = _command(commands, "models", models, "list the models of a server")
    listing.add_argument("--json", action="store_true", help="print JSON")
    state = _command(commands, "health", health, "ask a server, or one of its models, for its health")
    state.add_argument("model", nargs="?", metavar="MODEL", help="the server as a whole where absent")
    if next((word for word in argv if not word.startswith("-")), None) not in commands.choices:
        plugins.add(commands)  # not looked for where none of them is meant
    return parser


def _add_rows(one: argparse.ArgumentParser) -> None:
    """What is wanted of every output."""
    one.add_argument("--view", choices=VIEWS, help="part of every output; the whole where absent")
    chosen = one.add_mutually_exclusive_group()
    chosen.add_argument(
        "--patches", type=_numbers, metavar="I,J", help="indices of patches, row by row from 0"
    )
    rect = "patches of a rectangle of the grid"
    chosen.add_argument("--rect", type=_numbers, metavar="ROW,COLUMN,HEIGHT,WIDTH", help=rect)
    one.add_argument("--l2-normalize", action="store_true", help="scale every row to unit length")
    element = "element type on the wire; bfloat16 arrives as float32, int8 with a scale for each row"
    one.add_argument("--dtype", choices=DTYPES, default="float32", help=element)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text.capitalize()}."
    )
    server = os.environ.get("VITRAL_SERVER", DEFAULT_ADDRESS)
    where = "server, several joined by commas (environment: VITRAL_SERVER; now %(default)s)"
    parser.add_argument("--server", default=server, metavar="HOST:PORT", help=where)
    parser.add_argument("--timeout", type=_seconds, default=30.0, metavar="S", help="seconds a request has")
    parser.set_defaults(run=run)
    return parser


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("no output is named")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers joined by commas")
    return tuple(map(int, text.split(",")))


def _size(text: str) -> tuple[int, int]:
    try:
        return argument.height_width(text)
    except InvalidArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid seconds value: {text!r}") from None
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return seconds


def _missing(packages: Sequence[str]) -> str | None:
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"this needs {' and '.join(absent)}: pip install 'vitral[cli]'" if absent else None


def _usage(message: str) -> int:
    print(f"vitral: {message}", file=sys.stderr)
    return 2


def _fail(message: str) -> int:
    print(f"vitral: {message}", file=sys.stderr)
    return 1
