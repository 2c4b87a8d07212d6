"""What each command of `vitral-export` does.

Replaying and inspecting an artifact do without torch; what needs it is imported by the command that does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING

from vitral import spec as specs
from vitral.errors import ProofError
from vitral_engine.artifact import Artifact, open_artifact
from vitral_engine.device import available
from vitral_engine.replay import demand, replay
from vitral_export import tables

if TYPE_CHECKING:
    from vitral_export.sources import Loaded


def _build(arguments: argparse.Namespace) -> None:
    from vitral_export.build import build

    done = build(_loaded(arguments), name=arguments.name, repo=arguments.repo, opset=arguments.opset)
    out = tables.console()
    if not done.changed:
        out.print(f"{done.path} has this identity already: nothing changed")
        return
    tables.show_spec(out, done.spec, path=str(done.path))
    out.print(f"installed {done.path}")


def _verify(arguments: argparse.Namespace) -> None:
    artifact = open_artifact(arguments.path)
    rows = replay(artifact, available())
    if arguments.json:
        print(json.dumps([asdict(row) | {"ok": row.ok} for row in rows], indent=1))
    else:
        tables.show_replay(tables.console(), rows)
    demand(rows, model=artifact.name)
    if arguments.source is not None:
        _verify_against_source(arguments, artifact)


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


def _inspect(arguments: argparse.Namespace) -> None:
    artifact = open_artifact(arguments.path)
    if arguments.json:
        print(specs.to_json(artifact.spec), end="")
    else:
        tables.show_spec(tables.console(), artifact.spec, path=arguments.path)


def _sources(_: argparse.Namespace) -> None:
    from vitral_export.sources import SOURCES

    tables.show_pairs(tables.console(), [(kind.name, kind.summary) for kind in SOURCES.values()])


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


COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = MappingProxyType(
    {"build": _build, "verify": _verify, "inspect": _inspect, "sources": _sources}
)
"""Every command by name. They return on success and raise on failure."""
