"""report.html: one self-contained page about an artifact, for people. The verdict first, details after."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from vitral import spec as specs
from vitral.v1 import model_pb2 as pb
from vitral_export import figures
from vitral_export.numbers import Run
from vitral_export.precision.kinds import CEILING, FLOAT32, OWN
from vitral_export.report import agreement, errors, facts, photograph
from vitral_export.report.html import items, paragraph, section
from vitral_export.report.style import STYLE
from vitral_export.report.verdict import verdict

FILE = "report.html"
"""Name of the file in the version folder."""

_SECTIONS = {
    "what": "What it is",
    "budget": "Error against budget",
    "errors": "How the errors are distributed",
    "agreement": "Agreement in every setting",
    "where": "Where the largest error sits",
    "structure": "Compared in structure",
    "unchecked": "Not checked",
}


def page(spec: pb.ModelSpec, runs: Sequence[Run], pixels: NDArray[np.uint8] | None) -> str:
    """The page. `pixels` is the golden photograph after the resize, uint8 (H, W, 3)."""
    filled = {
        "what": _what(spec, pixels),
        "budget": _budget(spec),
        "errors": _errors(spec, runs),
        "agreement": _agreement(runs),
        "where": _where(spec, runs),
        "structure": items(figures.structure(spec)),
        "unchecked": items(figures.not_checked(spec)),
    }
    shown = {anchor: _SECTIONS[anchor] for anchor, inner in filled.items() if inner}
    links = "".join(f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, heading in shown.items())
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(spec.name)}: verification report</title>",
            f"<style>{STYLE}</style>\n</head>\n<body>\n<header>",
            f'<p class="kicker">vitral verification report</p>\n<h1>{escape(spec.name)}</h1>',
            verdict(spec, runs),
            f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n</header>\n<main>',
            *(section(anchor, heading, filled[anchor]) for anchor, heading in shown.items()),
            f"</main>\n{_footer(spec)}\n</body>\n</html>\n",
        ]
    )


def _what(spec: pb.ModelSpec, pixels: NDArray[np.uint8] | None) -> str:
    picture = "" if pixels is None else photograph.figure(spec, pixels)
    kind = "pair pictured" if photograph else "pair"
    return (
        f"{paragraph(facts.sentence(spec))}"
        f'<div class="{kind}"><div>{facts.described(spec)}</div>{picture}</div>'
        f"{facts.outputs(spec)}{facts.graphs(spec)}"
        f"<h3>Preprocessing</h3>{facts.preprocessing(spec)}"
    )


def _budget(spec: pb.ModelSpec) -> str:
    if not spec.proof.figures:
        return ""
    said = (
        "Truth is the module in float64, from the input on. A budget is three times the error that "
        f"{_measure(spec)}, and a little for the last bits. The whole width of a bar is the budget; the tick "
        f"is {OWN[spec.precision]}."
    )
    if specs.is_unproven(spec):
        said = (
            "Nothing is known of the truth. Errors are distances from what the float32 graph gave when the "
            "file was adopted; a budget is three times what the settings differed by then, and what two "
            "sound runs in float32 may differ by. The whole width of a bar is the budget."
        )
    return paragraph(said) + errors.budgets(spec)


def _measure(spec: pb.ModelSpec) -> str:
    if spec.precision == FLOAT32:
        return "PyTorch's own float32 makes in the same form"
    return f"{OWN[spec.precision]} makes, and a relative L2 error of {CEILING} at most"


def _errors(spec: pb.ModelSpec, runs: Sequence[Run]) -> str:
    said = (
        "The absolute error of every element of every run, in units of the output's own rms (root mean "
        "square), on a logarithmic axis; a bar is half an octave wide. Nothing may be over the budget."
    )
    return paragraph(said) + errors.distributions(spec, runs) if runs else ""


def _agreement(runs: Sequence[Run]) -> str:
    if not runs:
        return ""
    said = "Every cell is the worst of all that it stands for, as a part of its budget: 100 % is the limit."
    tables = (
        agreement.by_batch(runs),
        agreement.by_level(runs),
        agreement.by_kind(runs),
        agreement.against_alone(runs),
    )
    return paragraph(said) + "\n".join(tables)


def _where(spec: pb.ModelSpec, runs: Sequence[Run]) -> str:
    said = (
        "The ring is the largest absolute error of all runs; a patch is the darker, the more runs had their "
        "largest error there. Tokens in front of the patches are drawn above them. Everything counts from 0."
    )
    return paragraph(said) + errors.places(spec, runs) if runs else ""


def _footer(spec: pb.ModelSpec) -> str:
    files = ("manifest.json", figures.FILE, spec.proof.golden_file)
    named = ", ".join(f"<code>{escape(name)}</code>" for name in files if name)
    note = "" if not specs.is_random(spec) else f" {escape(facts.weights(spec))}."
    return f'<footer class="quiet">Every figure by itself: {named}, beside this page.{note}</footer>'
