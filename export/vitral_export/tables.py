"""Specs, proofs and replays as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from vitral import dynamic, tensors
from vitral import spec as specs
from vitral.v1 import model_pb2 as pb
from vitral_export.contract import described, no_uint8
from vitral_export.precision.kinds import FLOAT32, OWN, PRECISIONS

if TYPE_CHECKING:  # it imports the runtime, which a table of a spec can do without
    from vitral_engine.replay import ReplayRow
    from vitral_export.compare import Comparison
    from vitral_export.stages import Stage

_PIPE_WIDTH = 160  # rich folds at 80 columns where there is no terminal


def console() -> Console:
    """The terminal, or plain wide lines where there is none."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def show_spec(
    out: Console,
    spec: pb.ModelSpec,
    *,
    path: str,
    cosine_gaps: Mapping[tuple[str, str, str], float] = MappingProxyType({}),
) -> None:
    """What a model is, and its proof; `cosine_gaps` as `losses.cosine_gaps` gives them."""
    facts = _table("", "", title=f"{spec.name}  ({path})")
    for key, value in _facts(spec):
        facts.add_row(key, value)
    out.print(facts)
    own = "torch float32" if spec.precision == FLOAT32 else OWN.get(spec.precision, "torch")
    columns = ("relative L2", "budget", "max abs", "budget", own, "1 - cosine")
    proof = _table("graph", "output", *columns, title=_status(spec))
    for item in spec.proof.figures:
        numbers = (item.rel_l2, item.rel_l2_budget, item.max_abs, item.max_abs_budget, item.torch_rel_l2)
        gap = cosine_gaps.get((item.graph, item.output, item.provider))
        told = [f"{number:.2e}" for number in numbers]
        told[-1:] = [""] if specs.is_unproven(spec) else told[-1:]
        proof.add_row(item.graph, item.output, *told, *([] if gap is None else [f"{gap:.1e}"]))
    out.print(proof)
    if spec.proof.note:
        out.print(f"{'UNPROVEN' if specs.is_unproven(spec) else 'Proof'}: {spec.proof.note}")
    if spec.proof.ill_conditioned:
        out.print(f"Ill-conditioned in float32: torch itself is off by {spec.proof.torch_rel_l2:.2e}")


def show_comparison(out: Console, found: Comparison) -> None:
    """Two models beside each other."""
    a, b = found.costs
    title = f"{b.model} against {a.model}, {found.pictures} pictures"
    drift = _table("output", "relative L2, median", "largest", "largest 1 - cosine", title=title)
    for row in found.drift:
        drift.add_row(row.output, *(f"{number:.2e}" for number in (row.median, row.largest, row.cosine)))
    out.print(drift)
    columns = ("output", "rows", "vectors", "nearest the same", "of nearest five", "nearest, B asks in A")
    near = _table(*columns, title="neighbours by cosine")
    for one in found.neighbours:
        mixed = "other widths" if one.mixed1 is None else f"{one.mixed1:.1%}"
        near.add_row(one.output, one.rows, str(one.vectors), f"{one.top1:.1%}", f"{one.top5:.1%}", mixed)
    out.print(near)
    cost = _table("model", "precision", "images/s", "x A", "MB", "x A", title="cost, on this machine's CPU")
    for item in found.costs:
        rates = (f"{item.images_per_second:.1f}", f"{item.images_per_second / a.images_per_second:.2f}")
        sizes = (f"{item.bytes / 1e6:.1f}", f"{item.bytes / a.bytes:.2f}")
        cost.add_row(item.model, item.precision, *rates, *sizes)
    out.print(cost)
    for note in found.notes:
        out.print(note)


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
        "1 - cosine",
        "",
    )
    for key, mine in groups.items():
        numbers = (
            max(row.rel_l2 for row in mine),
            mine[0].rel_l2_budget,
            max(row.max_abs for row in mine),
            mine[0].max_abs_budget,
        )
        gap = f"{max(row.cosine_gap for row in mine):.1e}"
        verdict = "ok" if all(row.ok for row in mine) else "OVER BUDGET"
        settings = (_listed(row.threads for row in mine), _listed(row.batch for row in mine))
        table.add_row(*key, *settings, *(f"{number:.2e}" for number in numbers), gap, verdict)
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
    note, why = spec.source.weights_note, no_uint8(told)
    return [
        ("weights", note.upper() if specs.is_random(spec) else note),
        ("source", f"{spec.source.kind}, {spec.source.reference}"),
        *([("weights sha256", spec.source.weights_sha256)] if spec.source.weights_sha256 else []),
        ("image", f"{dynamic.described(spec)}, {item.in_channels} channels"),
        ("patch", f"{item.patch_size.height} x {item.patch_size.width}"),
        ("grid", f"{item.grid.height} x {item.grid.width}"),
        ("width", f"{item.embed_dim}"),
        *(
            ("graph", f"{graph.file}: {_tensor(graph.input)} -> {', '.join(graph.outputs)}")
            for graph in spec.graphs
        ),
        *([("no uint8 graph", why)] if why else []),
        *(("output", _output(output)) for output in spec.outputs),
        ("default", ", ".join(spec.default_outputs)),
        ("preprocessing", preprocessing),
        ("precision", f"{spec.precision}: {PRECISIONS.get(spec.precision, 'unknown here')}"),
        ("opset", str(spec.opset)),
        *(("fused", f"{graph.file}: {_fused(graph)}") for graph in spec.graphs),
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


def _fused(graph: pb.Graph) -> str:
    """What onnxruntime's CPU provider makes of several operators."""
    return ", ".join(f"{number} {name}" for name, number in sorted(graph.fused.items())) or "no operators"


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
