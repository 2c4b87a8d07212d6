"""The command `vitral-export`.

Replaying and inspecting an artifact do without torch; what needs it is imported by the command that does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from vitral import __version__
from vitral import spec as specs
from vitral.errors import ProofError, VitralError
from vitral_engine.artifact import Artifact, open_artifact
from vitral_engine.device import available
from vitral_engine.replay import demand, replay
from vitral_export import tables

if TYPE_CHECKING:
    from vitral_export.sources import Loaded

FAILURE, INTERRUPTED = 1, 130
"""Exit codes; usage errors are 2, as argparse has it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 1 failure, 2 usage, 130 Ctrl-C."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as left:  # help, version, or a usage error argparse has told of
        return left.code if isinstance(left.code, int) else 0
    try:
        result: int = arguments.command(arguments)
    except KeyboardInterrupt:
        return _fail("interrupted", code=INTERRUPTED)
    except ModuleNotFoundError as error:
        return _fail(f"{error.name} is not installed: add vitral[export]")
    except (VitralError, OSError) as error:
        return _fail(str(error))
    return result


def _build(arguments: argparse.Namespace) -> int:
    from vitral_export.build import build

    done = build(_loaded(arguments), name=arguments.name, repo=arguments.repo, opset=arguments.opset)
    out = tables.console()
    if not done.changed:
        out.print(f"{done.path} has this identity already: nothing changed")
        return 0
    tables.show_spec(out, done.spec, path=str(done.path))
    out.print(f"installed {done.path}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    artifact = open_artifact(arguments.path)
    rows = replay(artifact, available())
    if arguments.json:
        print(json.dumps([asdict(row) | {"ok": row.ok} for row in rows], indent=1))
    else:
        tables.show_replay(tables.console(), rows)
    demand(rows, model=artifact.name)
    if arguments.source is not None:
        _verify_against_source(arguments, artifact)
    return 0


def _verify_against_source(arguments: argparse.Namespace, artifact: Artifact) -> None:
    from vitral_export.verify import prove
    from vitral_export.wrap import Inference

    loaded = _loaded(arguments)
    if loaded.architecture != artifact.spec.architecture:
        raise ProofError(f"{artifact.name} has other sizes than the source: {_sizes(artifact, loaded)}")
    found = prove(artifact.folder, artifact.spec, Inference(loaded.module))
    if not arguments.json:
        figures = found.proof.figures
        worst = max(item.rel_l2 / item.rel_l2_budget for item in figures)
        print(f"agrees with {arguments.source} in PyTorch: structure equal, numbers at {worst:.0%} of budget")


def _sizes(artifact: Artifact, loaded: Loaded) -> str:
    texts = (" ".join(str(item).split()) for item in (artifact.spec.architecture, loaded.architecture))
    return " against ".join(texts)


def _inspect(arguments: argparse.Namespace) -> int:
    artifact = open_artifact(arguments.path)
    if arguments.json:
        print(specs.to_json(artifact.spec), end="")
    else:
        tables.show_spec(tables.console(), artifact.spec, path=arguments.path)
    return 0


def _sources(_: argparse.Namespace) -> int:
    from vitral_export.sources import SOURCES

    tables.show_pairs(tables.console(), [(kind.name, kind.summary) for kind in SOURCES.values()])
    return 0


def _loaded(arguments: argparse.Namespace) -> Loaded:
    from vitral_export.sources import Options, load

    options = Options(
        seed=arguments.seed,
        img_size=arguments.img_size,
        patch_size=arguments.patch_size,
        in_channels=arguments.in_channels,
        embed_dim=arguments.embed_dim,
    )
    return load(arguments.source, options)


def _parser() -> argparse.ArgumentParser:
    what = "Exports embedding modules as proven ONNX models."
    parser = argparse.ArgumentParser(prog="vitral-export", description=what)
    parser.add_argument("--version", action="version", version=f"vitral-export {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="export a source, prove it, install it in a repository")
    build.add_argument("source", metavar="SOURCE", help="see `vitral-export sources`")
    build.add_argument("--name", required=True, help="name of the model in the repository")
    build.add_argument("--repo", default="models", help="model repository (default: %(default)s)")
    build.add_argument("--opset", type=int, default=20, help="ONNX operator set, 18 to 23 (default: 20)")
    _add_source_options(build)
    build.set_defaults(command=_build)

    verify = commands.add_parser("verify", help="replay a model's proof here; without torch")
    verify.add_argument("path", metavar="MODEL", help="REPO/NAME or REPO/NAME/VERSION")
    verify.add_argument("--source", help="repeat the whole proof against this source in PyTorch")
    verify.add_argument("--json", action="store_true", help="every run as JSON")
    _add_source_options(verify)
    verify.set_defaults(command=_verify)

    inspect = commands.add_parser("inspect", help="show a model's spec and proof")
    inspect.add_argument("path", metavar="MODEL", help="REPO/NAME or REPO/NAME/VERSION")
    inspect.add_argument("--json", action="store_true", help="the manifest as JSON")
    inspect.set_defaults(command=_inspect)

    sources = commands.add_parser("sources", help="list what can be exported")
    sources.set_defaults(command=_sources)
    return parser


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    sizes = {"seed": 0, "img-size": 224, "patch-size": 16, "in-channels": 3, "embed-dim": 768}
    group = parser.add_argument_group("the source's seed and sizes")
    for name, value in sizes.items():
        group.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"default: {value}")


def _fail(message: str, *, code: int = FAILURE) -> int:
    print(f"vitral-export: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
