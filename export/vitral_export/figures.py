"""verification.json: everything that was run, with its errors. No times, no paths: the same each time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vitral import spec as specs
from vitral.v1 import model_pb2 as pb
from vitral_engine.device import CUDA
from vitral_engine.measure import ILL_CONDITIONED, MAX_ABS_FLOOR, REL_L2_FLOOR, UNPROVEN_GRANT
from vitral_export import histogram
from vitral_export.cases import PHOTOGRAPHS
from vitral_export.contract import RAW
from vitral_export.dynamic_size import is_dynamic, sizes
from vitral_export.dynamic_size import said as sized
from vitral_export.losses import FILE
from vitral_export.numbers import TOLERANCE, Run
from vitral_export.precision.kinds import CEILING, FLOAT32, OWN, RESERVATIONS, RULES

__all__ = ["FILE", "not_checked", "structure", "text"]


def text(spec: pb.ModelSpec, runs: Sequence[Run], weights: Mapping[str, Sequence[str]] | None = None) -> str:
    """The text of verification.json; `weights` where structure was compared by them alone."""
    unproven = specs.is_unproven(spec)
    own = "what the settings at adoption differ by" if unproven else f"{OWN[spec.precision]}'s own"
    grant = UNPROVEN_GRANT if unproven else 1
    data = {
        "rules": {
            "relative_l2": f"at most 3 x {own} + {grant * REL_L2_FLOOR}{_ceiling(spec)}",
            "max_abs": f"at most 3 x {own} + {grant * MAX_ABS_FLOOR} x rms of the output",
            "tolerance_of_the_count_per_million": f"{TOLERANCE} x rms of the output",
            "ill_conditioned": f"torch float32's own relative L2 over {ILL_CONDITIONED}",
        },
        "inputs": {
            "photographs": list(PHOTOGRAPHS) if _takes_photographs(spec) else [],
            "kinds": sorted({run.kind for run in runs}),
        },
        "structure": structure(spec),
        **({"weights": {key: list(names) for key, names in weights.items()}} if weights else {}),
        "not_checked": not_checked(spec),
        "worst": [_worst(group) for group in _groups(runs)],
        "histograms": _histograms(runs),
        "runs": [_short(run) for run in runs],
    }
    return json.dumps(data, indent=1) + "\n"


def _ceiling(spec: pb.ModelSpec) -> str:
    return "" if spec.precision == FLOAT32 else f", and never over {CEILING}"


def structure(spec: pb.ModelSpec) -> list[str]:
    """What the structural net compared, in plain sentences: it has passed, or there would be no artifact."""
    if specs.is_unproven(spec):
        return ["Nothing: there was no reference to compare with."]
    if spec.proof.note:
        return [f"{spec.proof.note[:1].upper()}{spec.proof.note[1:]}."]
    said = []
    if is_dynamic(spec.architecture):
        at = ", ".join(map(sized, sizes(spec.architecture).compared))
        said.append(
            f"Images of {at}: at each of these sizes what follows, the graph read for it against the module "
            "traced at it. Positions are interpolated in the graph, or computed, as the module does."
        )
    for graph in spec.graphs:
        said.append(f"{graph.file}: names, types and every axis of input and outputs are those asked for.")
        part = "" if graph == specs.whole_graph(spec, graph) else ", those that its outputs need"
        steps = "steps, their order, wiring, axes and constants are the module's own"
        said.append(f"{graph.file}: {steps}{part}.")
        if graph.input.folded:
            said.append(
                f"{graph.file}: weights with normalisation folded in equal those recomputed from the module "
                "in float64 and rounded once, bit for bit; every other parameter the module's, bit for bit."
            )
        else:
            said.append(f"{graph.file}: every parameter is the module's, bit for bit.")
        said += [f"{graph.file}: {rule}" for rule in RULES[spec.precision]]
    return said


def not_checked(spec: pb.ModelSpec) -> list[str]:
    """What the proof says nothing about, in plain sentences."""
    said = []
    if specs.is_unproven(spec):
        said.append("That the model computes what its authors meant: there was nothing to hold it against.")
    elif spec.proof.note:
        said.append("Steps, wiring and constants of the graph, except by numbers: another exporter wrote it.")
    if CUDA not in spec.proof.providers:
        said.append(
            "The CUDA provider: it was not there. The engine replays the goldens on it before it serves."
        )
    if spec.source.weights == pb.WEIGHTS_ORIGIN_RANDOM:
        said.append("Any use of the embeddings: the weights are random.")
    else:
        said.append(
            "The quality of the embeddings: the proof is about agreement with the module, not about training."
        )
    if spec.preprocessing.contract == RAW:
        said.append(
            "Real pictures: inputs were drawn, in the model's own channels, and went through its scaling."
        )
    elif spec.HasField("preprocessing"):
        said.append(
            "Preprocessing against the library that its contract is named after: inputs here went through "
            "the engine's own. That both agree is for the contract's own tests."
        )
    else:
        said.append("Photographs: the model has no preprocessing.")
    if is_dynamic(spec.architecture):
        ran = ", ".join(map(sized, sizes(spec.architecture).proven))
        said.append(f"Other image sizes than {ran}.")
    batches = ", ".join(map(str, spec.proof.batch_sizes))
    said.append(
        f"Other batch sizes than {batches or 'none'}, and other inputs than those run: no bound is derived."
    )
    said.append(
        "Other kinds of processor and other versions of onnxruntime: the engine replays the goldens where it "
        "runs before it serves."
    )
    said += [item.format(providers=", ".join(spec.proof.providers)) for item in RESERVATIONS[spec.precision]]
    return said


def _takes_photographs(spec: pb.ModelSpec) -> bool:
    return spec.HasField("preprocessing") and spec.preprocessing.contract != RAW


def _histograms(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Elements by absolute error, over every run of an output of a graph, without empty bins at the ends."""
    found = []
    for key in dict.fromkeys((run.graph, run.output) for run in runs):
        counts = histogram.total(run.histogram for run in runs if (run.graph, run.output) == key)
        bins = histogram.occupied(counts)
        found.append(
            {
                "graph": key[0],
                "output": key[1],
                "unit": "rms of the output",
                "from": histogram.edges(bins.start)[0],
                "bins_per_octave": 2,
                "counts": [counts[place] for place in bins],
            }
        )
    return found


def _groups(runs: Iterable[Run]) -> list[list[Run]]:
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.graph, run.output, run.kind, run.setting.provider), []).append(run)
    return list(groups.values())


def _worst(runs: Sequence[Run]) -> dict[str, Any]:
    """One line of figures over every level, thread count and batch size."""
    first, highest = runs[0], max(runs, key=lambda run: run.errors.max_abs)
    return {
        "graph": first.graph,
        "output": first.output,
        "inputs": first.kind,
        "provider": first.setting.provider,
        "relative_l2": max(run.errors.rel_l2 for run in runs),
        "relative_l2_budget": first.budget.rel_l2,
        "max_abs": highest.errors.max_abs,
        "max_abs_at": list(highest.errors.where),
        "max_abs_budget": first.budget.max_abs,
        "p999": max(run.errors.p999 for run in runs),
        "over_tolerance_per_million": max(run.over for run in runs),
        "worst_1_minus_cosine": max(run.errors.cosine_gap for run in runs),
        "batch_against_alone_max_abs": max(run.alone.max_abs for run in runs),
    }


def _short(run: Run) -> dict[str, Any]:
    return {
        "graph": run.graph,
        "output": run.output,
        "inputs": run.kind,
        "provider": run.setting.provider,
        "level": run.setting.level,
        "threads": run.setting.threads,
        "batch": run.setting.batch,
        "relative_l2": run.errors.rel_l2,
        "max_abs": run.errors.max_abs,
    }
