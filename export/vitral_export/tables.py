"""Specs, proofs and replays as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from vitral import spec as specs
from vitral import tensors
from vitral.v1 import model_pb2 as pb
from vitral_export.contract import described

if TYPE_CHECKING:  # it imports the runtime, which a table of a spec can do without
    from vitral_engine.replay import ReplayRow
    from vitral_export.stages import Stage

_PIPE_WIDTH = 160  # rich folds at 80 columns where there is no terminal


def console() -> Console:
    """The terminal, or plain wide lines where there is none."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def show_spec(out: Console, spec: pb.ModelSpec, *, path: str) -> None:
    """What a model is, and its proof."""
    facts = _table("", "", title=f"{spec.name}  ({path})")
    for key, value in _facts(spec):
        facts.add_row(key, value)
    out.print(facts)
    proof = _table(
        "graph", "output", "relative L2", "budget", "max abs", "budget", "torch float32", title=_status(spec)
    )
    for item in spec.proof.figures:
        numbers = (item.rel_l2, item.rel_l2_budget, item.max_abs, item.max_abs_budget, item.torch_rel_l2)
        told = [f"{number:.2e}" for number in numbers]
        proof.add_row(item.graph, item.output, *told[:-1], "" if specs.is_unproven(spec) else told[-1])
    out.print(proof)
    if spec.proof.note:
        out.print(f"{'UNPROVEN' if specs.is_unproven(spec) else 'Proof'}: {spec.proof.note}")
    if spec.proof.ill_conditioned:
        out.print(f"Ill-conditioned in float32: torch itself is off by {spec.proof.torch_rel_l2:.2e}")


def show_replay(out: Console, rows: Sequence[ReplayRow]) -> None:
    """The worst of every batch size and thread count, by graph, output, provider and level."""
    groups: dict[tuple[str, str, str, str], list[ReplayRow]] = {}
    for row in rows:
        groups.setdefault((row.graph, row.output, row.provider, row.level), []).append(row)
    table = _table(
        "graph",
        "output",
        "provider",
        "level",
        "threads",
        "batch",
        "relative L2",
        "budget",
        "max abs",
        "budget",
        "",
    )
    for key, mine in groups.items():
        numbers = (
            max(row.rel_l2 for row in mine),
            mine[0].rel_l2_budget,
            max(row.max_abs for row in mine),
            mine[0].max_abs_budget,
        )
        verdict = "ok" if all(row.ok for row in mine) else "OVER BUDGET"
        settings = (_listed(row.threads for row in mine), _listed(row.batch for row in mine))
        table.add_row(*key, *settings, *(f"{number:.2e}" for number in numbers), verdict)
    out.print(table)


def show_stages(out: Console, rows: Iterable[Stage]) -> None:
    """What goes in, what comes out, what happens."""
    table = _table("stage", "input", "output", "what happens")
    for row in rows:
        table.add_row(row.stage, row.input, row.output, row.what)
    out.print(table)


def show_pairs(out: Console, pairs: Iterable[tuple[str, str]]) -> None:
    """Names and what they mean."""
    table = _table("", "")
    for key, value in pairs:
        table.add_row(key, value)
    out.print(table)


def _facts(spec: pb.ModelSpec) -> list[tuple[str, str]]:
    item, told = spec.architecture, spec.preprocessing
    preprocessing = "none, prepared rows only"
    if spec.HasField("preprocessing"):
        preprocessing = described(told)
    note = spec.source.weights_note
    return [
        ("weights", note.upper() if specs.is_random(spec) else note),
        ("source", f"{spec.source.kind}, {spec.source.reference}"),
        *([("weights sha256", spec.source.weights_sha256)] if spec.source.weights_sha256 else []),
        ("image", f"{item.image_size.height} x {item.image_size.width}, {item.in_channels} channels"),
        ("patch", f"{item.patch_size.height} x {item.patch_size.width}"),
        ("grid", f"{item.grid.height} x {item.grid.width}"),
        ("width", f"{item.embed_dim}"),
        *(("graph", f"{graph.file}: {_tensor(graph.input)}") for graph in spec.graphs),
        *(("output", _output(output)) for output in spec.outputs),
        ("default", ", ".join(spec.default_outputs)),
        ("preprocessing", preprocessing),
        ("opset", str(spec.opset)),
        ("made with", ", ".join(f"{key} {value}" for key, value in sorted(spec.source.libraries.items()))),
        ("fingerprint", spec.fingerprint),
    ]


def _status(spec: pb.ModelSpec) -> str:
    status = pb.ProofStatus.Name(spec.proof.status).removeprefix("PROOF_STATUS_").lower()
    status = status.upper() if specs.is_unproven(spec) else status
    return f"{status} on {', '.join(spec.proof.providers)}; batch {_listed(spec.proof.batch_sizes)}"


def _tensor(item: pb.GraphInput | pb.Output) -> str:
    extents = " x ".join(str(axis.size or axis.name) for axis in item.axes)
    return f"{item.name} {tensors.name_of(item.dtype)} {extents}"


def _output(item: pb.Output) -> str:
    said = f"{_tensor(item)}: {item.meaning}"
    return said if item.trained else f"{said} (UNTRAINED)"


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(values))))


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(columns), box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
