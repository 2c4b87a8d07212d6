"""What each command of `vitral-export` does.

Each imports what it needs itself: replaying does without torch, inspecting as JSON without any runtime.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.message import Message

from vitral import spec as specs
from vitral.errors import InvalidArgumentError, ProofError
from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import Artifact, open_artifact
from vitral_export.losses import cosine_gaps
from vitral_export.precision.kinds import FLOAT32

if TYPE_CHECKING:
    from vitral_export.build import Exported
    from vitral_export.loaded import Loaded, Options


def _build(arguments: argparse.Namespace) -> None:
    from vitral_export import reporters, tables
    from vitral_export.build import build

    adopted = arguments.source.startswith("onnx:")
    if arguments.reference is not None and not adopted:
        raise InvalidArgumentError(f"--reference is for onnx:FILE; {arguments.source} is its own")
    if adopted:
        _refuse_what_adoption_has_not(arguments)
    loaded = None if adopted else _loaded(arguments)
    with nullcontext() if arguments.quiet else reporters.on_stderr() as report:
        done = (
            _adopt(arguments)
            if loaded is None
            else build(
                loaded,
                name=arguments.name,
                repo=arguments.repo,
                preprocessing=arguments.preprocessing,
                high_depth=arguments.high_depth,
                opset=arguments.opset,
                precision=arguments.precision,
                dynamic_size=arguments.dynamic_size,
                sign=arguments.sign,
                progress=report,
            )
        )
    out = tables.console()
    for name in loaded.left_out if loaded else ():
        out.print(f"{name} is left out: untrained, its weights are not in the checkpoint")
    if not done.changed:
        out.print(f"{done.path} has this identity already: nothing changed")
        return
    tables.show_spec(out, done.spec, path=str(done.path), cosine_gaps=cosine_gaps(done.path))
    out.print(f"installed {done.path}")


def _refuse_what_adoption_has_not(arguments: argparse.Namespace) -> None:
    """A file that is adopted stays what it is."""
    from vitral_export.onnx_graph import DEFAULT_OPSET

    given = {
        "--opset": arguments.opset != DEFAULT_OPSET,
        "--precision": arguments.precision != FLOAT32,
        "--dynamic-size": arguments.dynamic_size,
    }
    for option, is_given in given.items():
        if is_given:
            raise InvalidArgumentError(f"source {arguments.source} takes no {option}: the file is what it is")


def _adopt(arguments: argparse.Namespace) -> Exported:
    from vitral_export.adoption import adopt

    return adopt(
        arguments.source,
        name=arguments.name,
        repo=arguments.repo,
        reference=arguments.reference,
        preprocessing=arguments.preprocessing,
        high_depth=arguments.high_depth,
        options=_options(arguments),
        sign=arguments.sign,
    )


def _sign(arguments: argparse.Namespace) -> None:
    from vitral_export.signing import signer

    key, found = signer(arguments.key), open_artifact(arguments.path)
    done = "signed" if key.write(found.folder) else "signed already"
    print(f"{found.name} version {found.version} is {done} by {arguments.key}")


def _keygen(arguments: argparse.Namespace) -> None:
    from vitral_export.signing import keygen

    public = keygen(arguments.path)
    print(f"{arguments.path} signs, {public} verifies: keep the first to yourself")


def _verify(arguments: argparse.Namespace) -> None:
    from vitral_engine.device import available
    from vitral_engine.replay import demand, replay
    from vitral_engine.signature import trusted

    artifact = open_artifact(arguments.path, trust=trusted(arguments.trust))
    rows = replay(artifact, available())
    found: dict[str, Any] = {"replay": [asdict(row) | {"ok": row.ok} for row in rows]}
    if not arguments.json:
        from vitral_export import tables

        tables.show_replay(tables.console(), rows)
    try:
        demand(rows, model=artifact.name)
        if arguments.source is not None:
            _verify_against_source(arguments, artifact, found)
    finally:
        if arguments.json:
            print(json.dumps(found, indent=1))


def _verify_against_source(arguments: argparse.Namespace, artifact: Artifact, found: dict[str, Any]) -> None:
    """Repeats the proof, and adds what came of it to `found` as `source`."""
    from vitral_export.dynamic_size import is_dynamic, widened
    from vitral_export.verify import prove
    from vitral_export.wrap import Inference

    if artifact.spec.source.kind == "onnx":
        raise InvalidArgumentError(
            f"{artifact.name} is an adopted file: build onnx:FILE --reference {arguments.source} proves it"
        )
    loaded = _loaded(arguments, outputs=artifact.spec.outputs)
    if is_dynamic(artifact.spec.architecture):
        loaded = widened(loaded)
    try:
        if loaded.architecture != artifact.spec.architecture:
            raise ProofError(f"{artifact.name} has other sizes than the source: {_unlike(artifact, loaded)}")
        if list(loaded.outputs) != list(artifact.spec.outputs):
            mine, its = _said(artifact.spec.outputs), _said(loaded.outputs)
            raise ProofError(f"{artifact.name} has other outputs than the source: {mine} against {its}")
        figures = prove(artifact.folder, artifact.spec, Inference(loaded)).proof.figures
    except ProofError as error:
        found["source"] = {"name": arguments.source, "agreed": False, "problem": str(error)}
        raise
    told = [json_format.MessageToDict(item, preserving_proto_field_name=True) for item in figures]
    found["source"] = {"name": arguments.source, "agreed": True, "figures": told}
    if not arguments.json:
        worst = max(item.rel_l2 / item.rel_l2_budget for item in figures)
        print(f"agrees with {arguments.source} in PyTorch: structure equal, numbers at {worst:.0%} of budget")


def _unlike(artifact: Artifact, loaded: Loaded) -> str:
    """The sizes that differ, each with both values."""
    mine, its = artifact.spec.architecture, loaded.architecture
    pairs = [(key, getattr(mine, key), getattr(its, key)) for key in mine.DESCRIPTOR.fields_by_name]
    return ", ".join(
        f"{key} {_size(one)} against {_size(other)}" for key, one, other in pairs if one != other
    )


def _said(outputs: Iterable[pb.Output]) -> str:
    """Names, extents, and what else a spec says of outputs."""
    told = []
    for item in outputs:
        extents = " x ".join(str(axis.size or axis.name) for axis in item.axes)
        prefix = f", {len(item.prefix_tokens)} in front" if item.prefix_tokens else ""
        told.append(f"{item.name} {extents}{prefix}{'' if item.trained else ', untrained'}")
    return "; ".join(told)


def _size(value: object) -> str:
    """`224 x 224` of a height and a width; anything else as it is."""
    if isinstance(value, Message):
        return " x ".join(str(number) for _, number in value.ListFields()) or "none"
    return str(value)


def _inspect(arguments: argparse.Namespace) -> None:
    artifact = open_artifact(arguments.path)
    if arguments.json:
        print(specs.to_json(artifact.spec), end="")
        return
    from vitral_export import tables

    gaps = cosine_gaps(artifact.folder)
    tables.show_spec(tables.console(), artifact.spec, path=arguments.path, cosine_gaps=gaps)


def _sources(arguments: argparse.Namespace) -> None:
    from vitral_export.sources import OPEN_SOURCES, SOURCES

    known = [*((kind.name, kind.summary) for kind in SOURCES.values()), *OPEN_SOURCES.items()]
    if arguments.json:
        print(json.dumps([{"name": name, "summary": summary} for name, summary in known], indent=1))
        return
    from vitral_export import tables

    tables.show_pairs(tables.console(), known)


def _stages(arguments: argparse.Namespace) -> None:
    from vitral_export.stages import stages

    rows = stages(_loaded(arguments))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    from vitral_export import tables

    tables.show_stages(tables.console(), rows)


def _loaded(arguments: argparse.Namespace, *, outputs: Iterable[pb.Output] = ()) -> Loaded:
    """The source of the arguments; where they choose no outputs, with these, untrained ones too."""
    from vitral_export.sources import load

    options = _options(arguments)
    if outputs and not options.outputs:
        untrained = tuple(item.name for item in outputs if not item.trained)
        names = tuple(item.name for item in outputs)
        options = replace(options, outputs=names, allow_untrained=options.allow_untrained + untrained)
    return load(arguments.source, options)


def _compare(arguments: argparse.Namespace) -> None:
    from vitral_export.compare import compare

    if not 0 <= arguments.seconds <= 3600:
        raise InvalidArgumentError(f"--seconds is from 0 to 3600, not {arguments.seconds}")
    found = compare(arguments.one, arguments.other, folder=arguments.pictures, seconds=arguments.seconds)
    if arguments.json:
        print(json.dumps(asdict(found), indent=1))
        return
    from vitral_export import tables

    tables.show_comparison(tables.console(), found)


def _convert(arguments: argparse.Namespace) -> None:
    from vitral_export.convert import convert

    for file in convert(arguments.path, arguments.to, beside=tuple(arguments.beside)):
        print(f"{arguments.to}/{file}")


def _options(arguments: argparse.Namespace) -> Options:
    from vitral_export.loaded import Options

    return Options(**{field.name: getattr(arguments, field.name) for field in fields(Options)})


COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = MappingProxyType(
    {
        "build": _build,
        "compare": _compare,
        "convert": _convert,
        "inspect": _inspect,
        "keygen": _keygen,
        "sign": _sign,
        "sources": _sources,
        "stages": _stages,
        "verify": _verify,
    }
)
"""Every command by name. They return on success and raise on failure."""
