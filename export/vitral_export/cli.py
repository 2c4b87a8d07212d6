"""The command `vitral-export`: its arguments and its exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vitral import __version__
from vitral.errors import VitralError
from vitral_export.precision.kinds import FLOAT32, PRECISIONS

FAILURE, INTERRUPTED = 1, 130
"""Exit codes; usage errors are 2, as argparse has it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 1 failure, 2 usage, 130 Ctrl-C."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as left:  # help, version, or a usage error argparse has told of
        return left.code if isinstance(left.code, int) else 0
    try:
        # Here, so that a missing library is told in one line: help needs none of them.
        from vitral_export.commands import COMMANDS

        COMMANDS[arguments.command](arguments)
    except KeyboardInterrupt:
        return _fail("interrupted", code=INTERRUPTED)
    except ModuleNotFoundError as error:
        return _fail(_missing(error.name or str(error)))
    except (VitralError, OSError) as error:
        return _fail(str(error))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # as torch says it
            raise
        return _fail(str(error) or "not enough memory")
    return 0


def _parser() -> argparse.ArgumentParser:
    what = "Exports embedding modules as proven ONNX models."
    parser = argparse.ArgumentParser(prog="vitral-export", description=what)
    parser.add_argument("--version", action="version", version=f"vitral-export {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="export a source, prove it, install it in a repository")
    build.add_argument("source", metavar="SOURCE", help="see `vitral-export sources`")
    build.add_argument("--name", required=True, help="name of the model in the repository")
    build.add_argument("--repo", default="models", help="model repository (default: %(default)s)")
    build.add_argument("--opset", type=int, default=20, help="ONNX operator set, 18 to 23 (default: 20)")
    sized = "take images of any height and width that are multiples of the patch, in a proven range"
    build.add_argument("--dynamic-size", action="store_true", help=sized)
    build.add_argument("--quiet", action="store_true", help="do not say what a long export is doing")
    precision = "what weights and arithmetic keep of float32, each proven for itself (default: %(default)s)"
    build.add_argument("--precision", choices=tuple(PRECISIONS), default=FLOAT32, help=precision)
    reference = "PyTorch source that an onnx:FILE is proven against (default: none, it stays unproven)"
    build.add_argument("--reference", metavar="SOURCE", help=reference)
    build.add_argument("--sign", metavar="KEY.pem", help="sign the manifest with this Ed25519 private key")
    _add_preprocessing_options(build)
    _add_source_options(build)

    sign = commands.add_parser("sign", help="sign a model's manifest")
    sign.add_argument("path", metavar="MODEL", help="REPO/NAME or REPO/NAME/VERSION")
    sign.add_argument("--key", required=True, metavar="KEY.pem", help="Ed25519 private key")

    keygen = commands.add_parser("keygen", help="make an Ed25519 key to sign models with")
    keygen.add_argument("path", metavar="KEY.pem", help="the public key is written beside it, as KEY.pub.pem")

    verify = commands.add_parser("verify", help="replay a model's proof here; without torch")
    verify.add_argument("path", metavar="MODEL", help="REPO/NAME or REPO/NAME/VERSION")
    trust = "public key that has to have signed the model; may be repeated"
    verify.add_argument("--trust", action="append", default=[], metavar="PUBLIC.pem", help=trust)
    verify.add_argument("--source", help="repeat the whole proof against this source in PyTorch")
    verify.add_argument("--json", action="store_true", help="every run, and what came of --source, as JSON")
    _add_source_options(verify)

    inspect = commands.add_parser("inspect", help="show a model's spec and proof")
    inspect.add_argument("path", metavar="MODEL", help="REPO/NAME or REPO/NAME/VERSION")
    inspect.add_argument("--json", action="store_true", help="the manifest as JSON")

    compare = commands.add_parser("compare", help="hold two models against each other on the same pictures")
    compare.add_argument("one", metavar="A", help="REPO/NAME or REPO/NAME/VERSION; drift is from this one")
    compare.add_argument("other", metavar="B", help="the same")
    compare.add_argument("--pictures", metavar="FOLDER", help="picture files (default: cuts of photographs)")
    compare.add_argument(
        "--seconds", type=float, default=1.0, help="each is timed for (default: %(default)s)"
    )
    compare.add_argument("--json", action="store_true", help="the figures as JSON")

    convert = commands.add_parser("convert", help="write a model in another layout")
    convert.add_argument("path", metavar="MODEL", help="REPO/NAME or REPO/NAME/VERSION")
    layout = "transformers: that of transformers.js and optimum (default: %(default)s)"
    convert.add_argument("--layout", choices=("transformers",), default="transformers", help=layout)
    convert.add_argument("--to", required=True, metavar="FOLDER", help="a new folder")
    beside = "the same model in another precision, written beside it; may be repeated"
    convert.add_argument("--with", dest="beside", action="append", default=[], metavar="MODEL", help=beside)

    stages = commands.add_parser("stages", help="show what a source does, step by step, with shapes")
    stages.add_argument("source", metavar="SOURCE", help="see `vitral-export sources`")
    stages.add_argument("--json", action="store_true", help="the rows as JSON")
    _add_source_options(stages)

    sources = commands.add_parser("sources", help="list what can be exported")
    sources.add_argument("--json", action="store_true", help="names and summaries as JSON")
    return parser


def _add_preprocessing_options(parser: argparse.ArgumentParser) -> None:
    which = (
        "auto (the source's), none, hf-pil, hf-torchvision, hf-dinov3, timm, google-tf, "
        "[CONTRACT:]FILE.json, raw-scale:FILE.json (default: %(default)s)"
    )
    parser.add_argument("--preprocessing", default="auto", metavar="WHICH", help=which)
    deep = "16-bit grey pictures: refused, or divided by 257 (default: %(default)s)"
    parser.add_argument("--high-depth", choices=("refuse", "scale"), default="refuse", help=deep)


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    sizes = {"img-size": 224, "patch-size": 16, "in-channels": 3, "embed-dim": 768}
    group = parser.add_argument_group("what the source is, where it does not say itself")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of random weights (default: 0)")
    for name, value in sizes.items():
        group.add_argument(f"--{name}", type=int, metavar="N", help=f"default: the source's own, or {value}")
    weights = "weights from FILE.safetensors, or from hf:NAME_OR_FOLDER"
    group.add_argument("--weights", metavar="FILE", help=weights)
    group.add_argument("--revision", metavar="R", help="revision of a Hugging Face checkpoint")
    exact = (
        "an npz: checkpoint as it was trained, with LayerNorm eps 1e-6 and tanh GELU "
        "(default: as transformers has it, 1e-12 and erf)"
    )
    group.add_argument("--jax-exact", action="store_true", help=exact)
    outputs = "outputs to export, the default one first (default: all that are trained)"
    group.add_argument("--outputs", type=_names, default=(), metavar="A,B", help=outputs)
    untrained = "export these outputs though their weights are not trained, marked so"
    group.add_argument("--allow-untrained", type=_names, default=(), metavar="A,B", help=untrained)
    prefix = "tokens in front of the patches of a module of one's own: cls, distillation, register"
    group.add_argument("--prefix-tokens", type=_names, default=(), metavar="A,B", help=prefix)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("nothing is named")
    return names


def _missing(module: str) -> str:
    if module.partition(".")[0] == "onnxruntime":
        return "no onnxruntime is installed: add exactly one of vitral[gpu], vitral[cuda], vitral[cpu]"
    return f"{module} is not installed: add vitral[export]"


def _fail(message: str, *, code: int = FAILURE) -> int:
    print(f"vitral-export: {' '.join(message.split())}", file=sys.stderr)
    return code
