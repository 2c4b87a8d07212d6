"""The first screen of the page: whether the model is proven, how closely, and what to beware of."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vitral import spec as specs
from vitral.v1 import model_pb2 as pb
from vitral_engine.measure import ILL_CONDITIONED
from vitral_export.numbers import Run
from vitral_export.precision.kinds import FLOAT32, OWN
from vitral_export.report import facts
from vitral_export.report.agreement import used
from vitral_export.report.html import code, count, number, percent, provider, several


def verdict(spec: pb.ModelSpec, runs: Sequence[Run]) -> str:
    """The verdict, warnings, and the figures that most readers want."""
    tiles = "".join(f"<div><dt>{escape(key)}</dt><dd>{value}</dd></div>" for key, value in _tiles(spec, runs))
    return f'{_box(spec, runs)}\n{"".join(_warnings(spec))}\n<dl class="tiles">{tiles}</dl>'


def _box(spec: pb.ModelSpec, runs: Sequence[Run]) -> str:
    problems = [run.problem for run in runs if run.problem]
    if problems:
        more = f"{len(problems)} of {count(len(runs), 'comparison')} over budget"
        return _verdict("Not proven.", f"{more}. The first: {problems[0]}.", kind=" bad")
    if spec.proof.status != pb.PROOF_STATUS_PROVEN:
        note = spec.proof.note or "there was no reference to prove the model against"
        return _verdict("Unproven.", f"{note[:1].upper()}{note[1:]}.", kind=" bad")
    if not runs:
        return _verdict("Proven against PyTorch in float64.", "The single comparisons are not on this page.")
    worst = max(runs, key=used)
    return _verdict(
        "Proven against PyTorch in float64.",
        f"All {count(len(runs), 'comparison')} are within budget. The closest used {percent(used(worst))} of "
        f"it: {worst.output} of {worst.graph}, {worst.kind}. {_structure(spec)}",
    )


def _structure(spec: pb.ModelSpec) -> str:
    if spec.proof.note:
        return f"{spec.proof.note[:1].upper()}{spec.proof.note[1:]}."
    return "Structure and weights of every graph are the module's own."


def _verdict(loud: str, said: str, *, kind: str = "") -> str:
    return f'<div class="verdict{kind}"><strong>{escape(loud)}</strong><p>{escape(said)}</p></div>'


def _warnings(spec: pb.ModelSpec) -> list[str]:
    said = []
    if specs.is_random(spec):
        note = facts.weights(spec)
        said.append((note, "For trying out and for benchmarks. Its embeddings mean nothing."))
    if spec.proof.ill_conditioned:
        said.append(
            (
                "Ill-conditioned in float32",
                f"PyTorch's own float32 is off by a relative {number(spec.proof.torch_rel_l2)} (over "
                f"{number(ILL_CONDITIONED)}). The export is as good as that, and no better.",
            )
        )
    untrained = [item.name for item in spec.outputs if not item.trained]
    if untrained:
        said.append(("Untrained in part", f"Weights of {several(untrained)} were not in the checkpoint."))
    return [f'<p class="loud"><strong>{escape(key)}.</strong> {escape(text)}</p>' for key, text in said]


def _tiles(spec: pb.ModelSpec, runs: Sequence[Run]) -> list[tuple[str, str]]:
    providers = [provider(name) for name in spec.proof.providers]
    tiles = [
        ("Default output", ", ".join(map(code, spec.default_outputs))),
        ("Its shape", escape(_shapes(spec))),
        ("Weights", escape(facts.weights(spec))),
        ("Preprocessing", code(spec.preprocessing.contract) if spec.HasField("preprocessing") else "none"),
    ]
    if spec.proof.figures:
        tiles += [
            ("Largest relative L2 error", number(max(item.rel_l2 for item in spec.proof.figures))),
        ]
    if spec.proof.figures and not specs.is_unproven(spec):
        own = max(item.torch_rel_l2 for item in spec.proof.figures)
        tiles.append((f"{OWN[spec.precision]}'s own", number(own)))
    if runs and spec.precision != FLOAT32:
        tiles.append(("Worst 1 - cosine", number(max(run.errors.cosine_gap for run in runs))))
    tiles += [
        ("Run on", escape(several(providers))),
        ("Batch sizes run", escape(several([str(size) for size in spec.proof.batch_sizes]))),
    ]
    return tiles


def _shapes(spec: pb.ModelSpec) -> str:
    return ", ".join(facts.shape(item.axes) for item in spec.outputs if item.name in spec.default_outputs)
