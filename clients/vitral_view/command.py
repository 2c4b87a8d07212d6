"""The command `vitral steps`. Imported for `vitral --help`: everything heavy is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vitral.errors import ModelNotFoundError
from vitral_client.plugins import Command

REPO = Path("models")
"""Where a model is looked for when none is named."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="image file")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write: .png, or .gif to go through the steps one by one",
    )
    where = f"{REPO}/NAME or {REPO}/NAME/VERSION; needed where {REPO} holds several"
    parser.add_argument("--model", type=Path, metavar="MODEL", help=where)
    parser.add_argument(
        "--patch",
        type=int,
        metavar="K",
        help="patch to follow, from 0; that of largest contrast where absent",
    )


def _run(args: argparse.Namespace) -> int:
    from vitral import spec as specs
    from vitral_view import output
    from vitral_view.scene import read

    output.check_target(args.output)
    scene = read(args.model or only_model(REPO), args.image, patch=args.patch)
    if specs.is_random(scene.spec):
        print(f"vitral: model {scene.name} has {scene.weights}: it was never trained", file=sys.stderr)
    if specs.is_unproven(scene.spec):
        print(f"vitral: {specs.unproven(scene.spec)}", file=sys.stderr)
    for line in scene.left_out:
        print(f"vitral: left out: {line}", file=sys.stderr)
    output.write(args.output, scene)
    print(f"{args.output}: model {scene.name} version {scene.version}, patch {scene.followed} followed")
    return 0


def only_model(repo: Path) -> Path:
    """The only model of a repository.

    Raises:
        ModelNotFoundError: there is none, or there are several; the message names them.
    """
    from vitral_engine.artifact import models

    found = models(repo) if repo.is_dir() else []
    if not found:
        raise ModelNotFoundError(f"there is no model in {repo}: name one with --model")
    if len(found) > 1:
        choices = ", ".join(map(str, found))
        raise ModelNotFoundError(f"{repo} holds {len(found)} models, name one with --model: {choices}")
    return found[0]


steps = Command(
    summary="draw what a patch embedding does to a picture, step by step",
    extra="view",
    packages=("matplotlib", "PIL", "safetensors"),
    add_arguments=_add_arguments,
    run=_run,
)
"""`vitral steps`."""
