from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from report_cases import CPU, CUDA, FLOAT, UINT8, Shape, runs_of, spec_of

from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import open_artifact
from vitral_engine.measure import Errors
from vitral_export.cases import GOLDEN_PHOTOGRAPH, photograph_bytes
from vitral_export.report import page
from vitral_export.report.html import number, percent, share

VOID = {"meta", "img", "wbr", "br", "link"}
HUGGING_FACE = Shape(
    {"last_hidden_state": 1, "patch_embeddings": 0, "embeddings": 1, "pooler_output": None},
    providers=(CPU, CUDA),
)
SHAPES = {
    "hugging face": HUGGING_FACE,
    "one number": Shape({"patch_embeddings": 0}, image=32, patch=32, dim=1, scale=1e-9),
    "six outputs": Shape({f"output_{n}": n for n in range(5)} | {"pooled": None}, image=64, dim=4),
    "tokens": Shape({"embeddings": 0}, tokens=True, graphs=(FLOAT,)),
    "wide": Shape({"patch_embeddings": 0}, image=16, patch=8, dim=1280),
    "many patches": Shape({"embeddings": 1}, image=518, patch=14, dim=1, graphs=(FLOAT,), scale=1e-9),
}


class Reader(HTMLParser):
    """Reads a page as strictly as a person would write it: what is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._table = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = dict(attrs).get("aria-label") or ""
            self.tables.setdefault(self._table, [])
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[self._table][-1][-1] += data

    def rows(self, start: str) -> list[list[str]]:
        """The rows of the table whose name starts so."""
        (found,) = [rows for name, rows in self.tables.items() if name.startswith(start)]
        return found


def photograph(side: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(photograph_bytes(GOLDEN_PHOTOGRAPH))) as found:
        return np.asarray(found.convert("RGB").resize((side, side)))


def text_of(shape: Shape) -> str:
    runs = runs_of(shape)
    return page(spec_of(shape, runs), runs, None if shape.tokens else photograph(shape.image))


@pytest.mark.parametrize("name", SHAPES)
def test_a_page_is_whole_and_needs_nothing_but_itself(name: str) -> None:
    shape = SHAPES[name]
    text = text_of(shape)
    read = Reader(text)

    assert "Proven against PyTorch in float64." in read.text
    assert len(text.encode()) < 600_000
    assert not re.search(r"<script|<link|https?://|url\(", text)
    assert text == text_of(shape)
    for tag, attributes in read.tags:
        assert tag != "img" or (attributes["alt"] and str(attributes["src"]).startswith("data:"))
        assert tag != "svg" or (attributes["role"] == "img" and attributes["aria-label"])
        assert tag != "th" or attributes["scope"] in ("row", "col", "rowgroup", "colgroup")
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("name", SHAPES)
def test_every_output_has_its_histograms_and_those_with_patches_their_map(name: str) -> None:
    shape = SHAPES[name]
    read = Reader(text_of(shape))
    drawn = [attributes["class"] for tag, attributes in read.tags if tag == "svg"]
    graphs = len(shape.graphs)

    assert drawn.count("chart") == graphs * len(shape.outputs)
    assert drawn.count("map") == graphs * sum(front is not None for front in shape.outputs.values())
    assert drawn.count("bar") == 2 * graphs * len(shape.outputs)
    assert [row[0].removesuffix("default") for row in read.rows("Outputs")[1:]] == list(shape.outputs)


def test_figures_on_the_page_are_those_of_the_spec() -> None:
    runs = runs_of(HUGGING_FACE)
    spec = spec_of(HUGGING_FACE, runs)
    rows = Reader(page(spec, runs, None)).rows("Largest error")[1:]
    found = {}
    for heading, upper, lower in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert (upper[0], lower[0]) == ("relative L2", "max abs")
        found[heading[0]] = [float(value) for value in (*upper[2:], *lower[2:])]

    assert len(found) == len(spec.proof.figures) == 8
    for item in spec.proof.figures:
        relative = (item.rel_l2, item.rel_l2_budget, item.torch_rel_l2)
        largest = (item.max_abs, item.max_abs_budget, item.torch_max_abs)
        assert found[f"{item.output} {item.graph}"] == pytest.approx((*relative, *largest), rel=0.05)


def test_a_cell_is_the_worst_of_its_runs() -> None:
    runs = runs_of(HUGGING_FACE)
    rows = Reader(page(spec_of(HUGGING_FACE, runs), runs, None)).rows("By batch size")
    at = next(place for place, row in enumerate(rows) if row == ["pooler_output"])
    mine = [
        run.errors.rel_l2 / run.budget.rel_l2
        for run in runs
        if (run.output, run.graph, run.setting.provider) == ("pooler_output", UINT8, CUDA)
        and run.setting.batch == 16
    ]

    assert rows[1] == ["1", "2", "16"]
    assert rows[at + 2][0] == f"{UINT8}, CUDA"
    assert rows[at + 2][3] == f"{round(100 * max(mine))} %"


def test_a_batch_is_told_from_rows_run_alone() -> None:
    runs = runs_of(HUGGING_FACE)
    rows = Reader(page(spec_of(HUGGING_FACE, runs), runs, None)).rows("A batch of N")

    assert rows[1] == ["2", "16"]
    assert rows[3][1] == "0 %"
    assert re.fullmatch(r"[1-9]\d? %", rows[3][2])


def test_the_largest_error_is_named_by_its_patch() -> None:
    shape = Shape({"embeddings": 1}, graphs=(FLOAT,))
    runs = runs_of(shape)
    spec = spec_of(shape, runs)

    def at(token: int, kind: str = "noise") -> str:
        worst = Errors(1e-3, 1e-3, (1, token, 5), 1e-3, 0.0, 1.0)
        return Reader(page(spec, [replace(runs[0], errors=worst, kind=kind), *runs[1:]], None)).text

    assert "1.0e-3 in the patch in row 2, column 1 (token 10), feature 5, of noise 1; CPU, level" in at(10)
    assert "1.0e-3 in token 0, the CLS token, feature 5, of noise 1" in at(0)
    assert "feature 5, of coffee.png" in at(3, kind="photographs")


def test_a_run_over_budget_is_the_verdict() -> None:
    runs = runs_of(HUGGING_FACE)
    runs[7] = replace(runs[7], budget=replace(runs[7].budget, rel_l2=1e-12))
    text = Reader(page(spec_of(HUGGING_FACE, runs), runs, None)).text

    assert "Not proven." in text
    assert f"1 of {len(runs)} comparisons over budget. The first: {runs[7].problem}" in text
    assert "Proven against" not in text


def test_what_to_beware_of_stands_first() -> None:
    shape = Shape(
        {"embeddings": 1, "pooled": None},
        scale=1e-5,
        origin=pb.WEIGHTS_ORIGIN_RANDOM,
        note="random weights, seed 4",
    )
    runs = runs_of(shape)
    spec = spec_of(shape, runs)
    spec.outputs[1].trained = False
    text = Reader(page(spec, runs, None)).text
    first = text[: text.index("What it is")]

    assert "Random weights, seed 4. For trying out" in first
    assert f"off by a relative {number(spec.proof.torch_rel_l2)}" in first
    assert "Weights of pooled were not in the checkpoint" in first


def test_hostile_names_are_text() -> None:
    name = "<script>alert('x')</script>&\"<b"
    shape = Shape({name: 1}, name=name, note=name, graphs=(name,))
    text = text_of(shape)
    read = Reader(text)

    assert "<script" not in text
    assert "<b" not in text.replace("<body", "")
    assert read.text.count(name) > 8


def test_words_about_the_model_are_there() -> None:
    read = Reader(text_of(HUGGING_FACE))
    outputs = {row[0].removesuffix("default"): row[1:3] for row in read.rows("Outputs")}

    assert outputs["last_hidden_state"] == ["B × 17 × 16", "1 CLS + 16 patches"]
    assert outputs["pooler_output"] == ["B × 16", "one vector for an image"]
    assert "bit for bit transformers' ViTImageProcessorPil" in read.text
    assert "0123456789abcdef" * 4 in read.text
    assert "patch tokens of 16 numbers each go in, not an image" in Reader(text_of(SHAPES["tokens"])).text


def test_the_page_of_an_export_says_what_was_run(small_repo: Path) -> None:
    folder = small_repo / "tiny" / "1"
    spec = open_artifact(small_repo / "tiny").spec
    read = Reader((folder / "report.html").read_text(encoding="utf-8"))
    data = json.loads((folder / "verification.json").read_text(encoding="utf-8"))

    assert f"All {len(data['runs'])} comparisons are within budget" in read.text
    assert spec.fingerprint in read.text
    assert [line for line in (*data["structure"], *data["not_checked"]) if line not in read.text] == []
    assert "prefers-color-scheme: dark" in (folder / "report.html").read_text(encoding="utf-8")
    for found in data["histograms"]:
        runs = [
            run for run in data["runs"] if (run["graph"], run["output"]) == (found["graph"], found["output"])
        ]
        settings = {(run["level"], run["threads"], run["batch"], run["provider"]) for run in runs}
        assert sum(found["counts"]) == len(settings) * 16 * 16 * 16  # pictures, patches, features
        assert f"{sum(found['counts']):,} elements in {len(runs)} runs" in read.text


def test_an_exact_model_has_a_page_without_charts() -> None:
    shape = Shape({"embeddings": 0}, scale=0.0)
    runs = runs_of(shape)
    read = Reader(page(spec_of(shape, runs), runs, None))

    assert "The closest used 0 % of it" in read.text
    assert "100 % under 9.1e-13 or exact" in read.text
    assert "No error at all." in read.text
    assert not [tag for tag, attributes in read.tags if attributes.get("class") in ("chart", "map")]


def test_parts_of_a_budget_round_to_the_safe_side() -> None:
    assert [percent(part) for part in (0.0, 0.001, 0.394, 1.0, 1.0001)] == [
        "0 %",
        "< 1 %",
        "39 %",
        "100 %",
        "101 %",
    ]
    assert percent(share(1.0, 0.0)) == percent(share(float("nan"), 1.0)) == "over"
    assert share(0.0, 0.0) == 0
