"""report.html: one self-contained page about an artifact, for people."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitral import spec as specs
from vitral import tensors
from vitral.v1 import model_pb2 as pb
from vitral_export import figures
from vitral_export.contract import described
from vitral_export.numbers import Run

FILE = "report.html"
"""Name of the file in the version folder."""

_SHOWN = 448  # pixels a picture is enlarged to, less than the page's 34rem so that the gaps fit

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; overflow-wrap: anywhere; } h2 { margin-top: 2.2rem; } small, .quiet { color: #666; }
.loud { background: #fff3cd; border-left: .4rem solid #e0a800; padding: .6rem 1rem; font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd; white-space: nowrap; }
.facts th { vertical-align: top; } .facts td { white-space: normal; overflow-wrap: anywhere; }
.bar { background: #eee; width: 8rem; height: .7rem; }
.bar i { display: block; height: 100%; background: #2a7f62; }
img { width: 100%; max-width: 34rem; image-rendering: pixelated; background: #fff; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""


def page(spec: pb.ModelSpec, runs: Sequence[Run], pixels: NDArray[np.uint8] | None) -> str:
    """The page. `pixels` is the golden photograph after the resize, uint8 (H, W, 3)."""
    loud = f'<p class="loud">{escape(_weights(spec))}</p>' if specs.is_random(spec) else ""
    parts = [
        f"<h1>{escape(spec.name)}</h1><p>{escape(_summary(spec))}</p>{loud}",
        f"<h2>What it is</h2>{_table(_facts(spec))}",
        "" if pixels is None else _photograph(spec, pixels),
        f"<h2>Error against budget</h2>{_budgets(spec)}",
        f"<h2>How it was run</h2><p>{escape(_settings(spec, runs))}</p>{_kinds(runs)}",
        "<h2>Not checked</h2><ul>",
        *(f"<li>{escape(line)}</li>" for line in figures.not_checked(spec)),
        f'</ul><p class="quiet">Fingerprint <code>{spec.fingerprint}</code></p>',
    ]
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(spec.name)}: report</title><style>{_STYLE}</style>"
    )
    return "\n".join([head, *(part for part in parts if part), "</html>"]) + "\n"


def _summary(spec: pb.ModelSpec) -> str:
    item = spec.architecture
    image, patch, grid = item.image_size, item.patch_size, item.grid
    return (
        f"An image of {image.height} x {image.width} with {item.in_channels} channels becomes "
        f"{grid.height} x {grid.width} = {grid.height * grid.width} patches of {patch.height} x "
        f"{patch.width}; each becomes {item.embed_dim} numbers. Proven against PyTorch in float64."
    )


def _weights(spec: pb.ModelSpec) -> str:
    note = spec.source.weights_note
    return f"{note[:1].upper()}{note[1:]}: for trying out and for benchmarks. Its embeddings mean nothing."


def _facts(spec: pb.ModelSpec) -> list[tuple[str, str]]:
    told = spec.preprocessing
    how = "none: only prepared float32 rows are accepted"
    if spec.HasField("preprocessing"):
        how = f"{described(told)}; {told.bound or 'no bound stated'}"
    outputs = (f"{item.name} ({_axes(item.axes)}): {item.meaning}" for item in spec.outputs)
    graphs = (
        f"{item.file}: {item.input.name} {tensors.name_of(item.input.dtype)} ({_axes(item.input.axes)})"
        for item in spec.graphs
    )
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(spec.source.libraries.items()))
    return [
        ("Module", f"{spec.architecture.module}, {spec.source.weights_note}"),
        *(("Graph", line) for line in graphs),
        *(("Output", line) for line in outputs),
        ("Preprocessing", how),
        ("ONNX", f"opset {spec.opset}, weights in {spec.precision}"),
        ("Made with", libraries),
    ]


def _axes(axes: Sequence[pb.Axis]) -> str:
    return ", ".join(str(axis.size or axis.name) for axis in axes)


def _photograph(spec: pb.ModelSpec, pixels: NDArray[np.uint8]) -> str:
    patch = spec.architecture.patch_size
    times = max(1, _SHOWN // max(pixels.shape[:2]))  # a gap in a small picture would be as wide as a patch
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(exploded(large, patch.height * times, patch.width * times)).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    credit = escape(spec.proof.photograph.credit)
    return (
        "<h2>A photograph, cut into its patches</h2>"
        f'<img alt="the golden photograph, patch by patch" src="data:image/png;base64,{data}">'
        f"<p><small>{credit}. After the resize; row by row these are the tokens.</small></p>"
    )


def exploded(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The image with white gaps between its patches."""
    gap = max(1, min(height, width) // 6)
    rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    canvas = np.full(shape, 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            patch = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
            canvas[top : top + height, left : left + width] = patch
    return canvas


def _budgets(spec: pb.ModelSpec) -> str:
    rows = []
    for item in spec.proof.figures:
        share = min(1.0, item.rel_l2 / item.rel_l2_budget)
        bar = f'<div class="bar"><i style="width:{share:.0%}"></i></div>'
        cells = [
            escape(item.graph),
            escape(item.output),
            f"{item.rel_l2:.1e}",
            f"{item.rel_l2_budget:.1e}",
            bar,
        ]
        cells += [f"{item.max_abs:.1e}", f"{item.max_abs_budget:.1e}", f"{item.torch_rel_l2:.1e}"]
        rows.append(cells)
    head = ["graph", "output", "relative L2", "budget", "used", "max abs", "budget", "torch float32"]
    note = ""
    if spec.proof.ill_conditioned:
        note = '<p class="loud">Ill-conditioned in float32: torch itself is off by '
        note += f"{spec.proof.torch_rel_l2:.1e}.</p>"
    return note + _grid(head, rows)


def _settings(spec: pb.ModelSpec, runs: Sequence[Run]) -> str:
    levels = list(dict.fromkeys(run.setting.level for run in runs))
    threads = sorted({run.setting.threads for run in runs})
    return (
        f"{', '.join(spec.proof.providers)}; batch {', '.join(map(str, spec.proof.batch_sizes))}; "
        f"optimisation levels {', '.join(levels)}; {' and '.join(map(str, threads))} threads: {len(runs)} "
        "comparisons, all within budget. Signature, parameters, steps and constants of every graph equal the "
        "module's."
    )


def _kinds(runs: Sequence[Run]) -> str:
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.graph, run.kind, run.setting.provider), []).append(run)
    rows = [
        [
            *key,
            f"{max(run.errors.rel_l2 for run in mine):.1e}",
            f"{max(run.alone.max_abs for run in mine):.1e}",
        ]
        for key, mine in groups.items()
    ]
    return _grid(["graph", "inputs", "provider", "relative L2", "batch against alone, max abs"], rows)


def _table(pairs: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in pairs)
    return f'<table class="facts">{rows}</table>'


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'
