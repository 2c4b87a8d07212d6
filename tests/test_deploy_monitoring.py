"""Dashboard, alert rules and the page of metrics speak of what a running server really has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import photographs
import promql_parser as promql
import pytest
import yaml
from prometheus_client.metrics_core import Metric
from scraping import TARGET, labels, scrape
from serving import running

from vitral.errors import ON_THE_WIRE, ModelNotFoundError
from vitral_client import Client

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "vitral-alerts.yaml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana" / "vitral.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {item["name"] for item in DASHBOARD["templating"]["list"]}

EXPRESSIONS = [(rule["alert"], rule["expr"]) for rule in ALERTS] + [
    (panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]
]


@pytest.fixture(scope="module")
def page(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Metric]:
    """The metrics of a server with workers, one call of each kind behind it."""
    log = tmp_path_factory.mktemp("monitored") / "log"
    with running(small_repo, "--workers", "2", "--metrics-port", "0", log=log) as server:
        with Client(server.address) as client:
            client.embed(photographs.ROCKET, model="tiny")
            with pytest.raises(ModelNotFoundError):
                client.embed(photographs.ROCKET, model="absent")
        return scrape(server.told["metrics"])


@pytest.fixture(scope="module")
def shown(page: list[Metric]) -> dict[str, set[str]]:
    """Every sample that there is, and its labels."""
    return labels(page)


def parsed(expression: str) -> promql.Expr:
    """As Prometheus reads it, with the one variable of Grafana that stands for a duration."""
    return promql.parse(expression.replace("$__rate_interval", "5m"))


def parts(node: Any) -> Iterator[Any]:
    """An expression and all in it."""
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if hasattr(node, name):
            yield from parts(getattr(node, name))
    for argument in getattr(node, "args", ()):
        yield from parts(argument)


def selected(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Every metric that it selects, and the labels it selects by."""
    for node in parts(parsed(expression)):
        if isinstance(node, promql.VectorSelector):
            yield str(node.name), {matcher.name for matcher in node.matchers.matchers}


def grouped(expression: str) -> set[str]:
    """Every label that it groups or matches by."""
    found: set[str] = set()
    for node in parts(parsed(expression)):
        modifier = getattr(node, "modifier", None)
        held = getattr(modifier, "matching", modifier)
        found |= set(getattr(held, "labels", ()) or ())
        found |= set(getattr(modifier, "group_labels", ()) or ())
    return found


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS, ids=lambda text: text[:40])
def test_each_expression_selects_what_a_server_has(
    shown: dict[str, set[str]], title: str, expression: str
) -> None:
    metrics = list(selected(expression))

    assert metrics
    for name, by in metrics:
        assert name in shown, title
        assert by - TARGET <= shown[name], title
    there = set().union(*(shown[name] for name, _ in metrics))
    assert grouped(expression) - TARGET <= there, title


def test_the_walk_finds_every_metric_that_is_written() -> None:
    for title, expression in EXPRESSIONS:
        written = set(re.findall(r"\b(?:vitral|process)_\w+", expression))
        assert {name for name, _ in selected(expression)} == written, title


def test_what_is_misspelt_is_found(shown: dict[str, set[str]]) -> None:
    [(name, by)] = selected('sum by (modle) (rate(vitral_request_total{cod="OK"}[5m]))')
    assert name not in shown
    assert not by <= shown["vitral_requests_total"]
    assert grouped('sum by (modle) (rate(vitral_request_total{cod="OK"}[5m]))') == {"modle"}
    with pytest.raises(ValueError, match="unclosed"):
        parsed("sum by (model) (rate(x[5m])")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_says_what_it_means(rule: dict[str, Any], shown: dict[str, set[str]]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    names = [name for name, _ in selected(rule["expr"])]
    kept = grouped(rule["expr"]) or set().union(*(shown[name] for name in names))
    assert used <= kept | TARGET


def test_alerts_are_those_that_were_promised() -> None:
    names = [rule["alert"] for rule in ALERTS]

    assert len(set(names)) == len(names)
    assert {
        "VitralErrors", "VitralQueueGrowing", "VitralSlow", "VitralModelNotReady", "VitralOnCpu",
        "VitralPixelsDiffer", "VitralMemory",
    } <= set(names)  # fmt: skip


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])
    ]

    assert len(set(ids)) == len(ids)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_panels_use_labels_and_variables_that_are_there(shown: dict[str, set[str]]) -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = set().union(*(shown[name] for name, _ in selected(target["expr"])))
            assert named <= kept | TARGET, panel["title"]
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= VARIABLES, panel["title"]
    for item in DASHBOARD["templating"]["list"]:
        for metric, label in re.findall(r"label_values\((\w+)[^,]*, (\w+)\)", item.get("definition", "")):
            assert label in shown[metric] | TARGET


def test_the_page_lists_each_metric_and_no_other(page: list[Metric]) -> None:
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", text, flags=re.MULTILINE)
    written = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    there = {
        family.name + "_total" * (family.type == "counter"): (
            family.type,
            {name for sample in family.samples for name in sample.labels} - {"le", "worker"},
        )
        for family in page
    }
    there["vitral_worker_up"][1].add("worker")
    assert written == there
    [row] = re.findall(r"^\| `vitral_rejections_total` .*$", text, flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row.split("|")[4])) == {error.reason for error in ON_THE_WIRE}
