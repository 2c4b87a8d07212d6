"""The serving benchmark: what it counts, what it refuses, and one run of it against a real server."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.serving import drift, goals, limit, load, measure, pictures, report, rounds
from benchmarks.serving.__main__ import main
from benchmarks.serving.figures import Figures, Row, curve, summary
from benchmarks.serving.goals import Evidence
from benchmarks.serving.measure import Served, Task, Wrong
from benchmarks.serving.startup import Startup
from benchmarks.serving.vitral_way import VitralWay
from benchmarks.serving.workload import WORKLOADS
from PIL import Image

HALF = WORKLOADS["W1-half"]
REPLY = 196 * 768 * 2  # bytes


@pytest.fixture(scope="module")
def task(base_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
    return measure.prepare(HALF, base_repo, tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def served(task: Task) -> Iterator[Served]:
    with measure.served(VitralWay(args=("--device", "cpu")), task) as up:
        yield up


def figures(way: str, workload: str, rate: float, **more: Any) -> Figures:
    callers = more.pop("callers", 0 if way in ("limit", "loop") else 8)
    return Figures(way, workload, callers, images=round(rate * 2), seconds=2.0, **more)


def row(way: str, workload: str, rate: float, **more: Any) -> Row:
    return summary([figures(way, workload, rate, **more)])


def test_percentiles_are_those_of_the_latencies() -> None:
    found = curve([float(value) for value in range(101)])
    assert [found[percent] for percent in (1, 50, 95, 99, 99.5, 100)] == [1, 50, 95, 99, 99.5, 100]
    assert curve([]) == {}


def test_medians_are_of_each_figure_by_itself() -> None:
    latencies = ({50: 3.0}, {50: 1.0}, {50: 2.0})
    runs = [
        figures("vitral", "W2", rate, latency=latency, server_cpu_s=cpu, errors={"Full": 1}, wire_bytes=400)
        for rate, latency, cpu in zip((100, 300, 200), latencies, (2.0, 3.0, 0.4), strict=True)
    ]
    found = summary(runs)
    assert (found.rate, found.low, found.high) == (200, 100, 300)
    assert found.percentile(50) == 2.0
    assert found.server_cpu == 5.0, "seconds for 1,000 images: 10, 5 and 1"
    assert found.errors == {"Full": 3}
    assert found.wire_bytes == 1.0


def test_a_closed_loop_takes_turns_and_counts_what_fails() -> None:
    turn = pictures.rotation([b"good", b"bad"])

    def call(picture: Any) -> Any:
        time.sleep(0.001)
        if picture == b"bad":
            raise ValueError
        return picture

    found = load.closed(call, turn, callers=2, seconds=0.2)
    assert found.seconds >= 0.2
    assert abs(len(found.milliseconds) - found.errors["ValueError"]) <= 2
    assert min(found.milliseconds) >= 1.0


def test_an_open_loop_counts_from_the_moment_a_call_was_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MOST_CALLERS", 1)
    seen: list[float] = []

    def call(picture: Any) -> Any:
        seen.append(time.perf_counter())
        time.sleep(0.02)
        return picture

    found = load.opened(call, lambda: b"", rate=100.0, seconds=0.2)
    # Each call takes twice the time between two: the last of 20 is 190 ms behind, and its own 20 take part.
    assert len(found.milliseconds) == len(seen) == 20
    assert found.milliseconds[-1] >= 19 * 10 + 20 - 1
    assert found.milliseconds == sorted(found.milliseconds)


def test_calls_of_an_open_loop_come_when_they_are_due() -> None:
    came: list[float] = []

    def call(picture: Any) -> Any:
        came.append(time.perf_counter())
        return picture

    load.opened(call, lambda: b"", rate=50.0, seconds=0.4)
    gaps = np.array(sorted(came)) - min(came)
    assert len(came) == 20
    assert gaps[-1] >= 0.36, "nobody comes early"


def test_every_round_begins_with_another_way() -> None:
    order: list[str] = []

    def turn(name: str) -> rounds.Turn:
        def run() -> Figures:
            order.append(name)
            return figures(name, "W2", 1)

        return run

    found = rounds.rotated([turn(name) for name in "abc"], 3)
    assert "".join(order) == "abcbcacab"
    assert [[one.way for one in each] for each in found] == [["a"] * 3, ["b"] * 3, ["c"] * 3]


def test_the_limit_is_the_fastest_arrangement() -> None:
    tried: list[limit.Arrangement] = []

    def rate(how: limit.Arrangement) -> float:
        tried.append(how)
        return how.workers * 10 - how.threads + how.batch / 10 + how.prepacked

    found = limit.search(rate, limit.arrangements(2))
    assert found == limit.Arrangement(4, 1, 8, prepacked=True)
    assert {(how.workers, how.threads) for how in tried} == {(2, 1), (1, 2), (2, 2), (1, 1), (4, 1)}


def test_goals_are_judged_by_the_figures() -> None:
    late = {50: 10.0, 99: 31.0}
    rows = [
        row("limit", "W1", 1000, server_cpu_s=4.0),
        row("vitral", "W1", 560, latency={99: 20.0}, server_cpu_s=2.8, client_cpu_s=1.12),
        row("triton", "W1", 400, latency={99: 10.0}, server_cpu_s=2.4, client_cpu_s=1.6),
        row("limit", "W2", 300),
        row("vitral", "W2", 230),
        row("plain", "W2", 200),
        row("vitral", "W4", 50, callers=1, latency={50: 20.5}),
        row("engine", "W4", 50, callers=1, latency={50: 20.0}),
        row("vitral", "W2", 160, arrivals=161.0, latency=late),
    ]
    found = {goal.what: goal for goal in goals.judged(Evidence(rows, Startup(1.6, 1.7, 200.0, 230.0)))}
    met = {what: goal.met for what, goal in found.items() if goal.met is not None}
    assert met == {
        "W1 served / limit": True,
        "W2 served / limit": False,
        "W1 against Triton": False,
        "W1 p99 against Triton's": False,
        "W2 against the plain gRPC server": True,
        "W4, 1 caller, p50 over that of the engine in process, ms": True,
        "W2, open loop at 70 % of peak, p99 / p50": False,
        "start to ready, ViT-B/16 patch embedding, s": False,
        "resident memory after some calls, MB": True,
    }
    assert found["W1 against Triton"].figure == pytest.approx(1.4)
    assert found["W1 against Triton"].note == (
        "CPU ms an image, both sides: limit 2.00, vitral 3.50, Triton 5.00; without any RPC 2.50 x"
    )
    assert found["W2 against the torch loop"].met is None, "nobody has measured it"
    document = report.document(Evidence(rows), {"cores": 2}, ["a note"])
    assert json.loads(json.dumps(document, allow_nan=False))["rows"][1]["limit_share"] == 0.56


def test_drift_is_a_distance_and_a_share_of_neighbours() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 5, 16))
    assert drift.between(rows, rows) == drift.Drift(0.0, 0.0, 1.0, 2)
    other = rows.copy()
    other[1] *= 1.1  # no angle changes
    found = drift.between(rows, other)
    assert (found.worst, found.rel_l2) == (pytest.approx(0.1), pytest.approx(0.05))
    assert found.neighbours == 1.0
    other[0, 0] = rows[1, 4]
    assert drift.between(rows, other).neighbours < 1.0


@pytest.mark.parametrize("name", ["W1", "W2"])
def test_pictures_are_many_and_none_is_another(tmp_path: Path, name: str) -> None:
    workload = WORKLOADS[name]
    found = pictures.load(pictures.draw(tmp_path, workload))
    assert len({bytes(one) for one in found}) == len(found) == 48
    first = found[0]
    shape = np.asarray(Image.open(io.BytesIO(first)) if isinstance(first, bytes) else first).shape
    assert shape == (*workload.pictures, 3)
    turn = pictures.rotation(found)
    assert all(turn() is one for one in [*found, *found])


def test_a_run_is_counted_on_both_sides(served: Served) -> None:
    found = served.run(callers=2, seconds=0.5)
    assert found.images > 0
    assert found.errors == {}
    assert 0 < found.latency[50] <= found.latency[99] <= found.latency[100]
    assert found.server_cpu_s > 0
    assert found.client_cpu_s > 0
    assert found.peak_mib > 50
    assert found.wire_bytes / found.images > REPLY
    assert 0 < found.stages["run_ms"] < found.stages["total_ms"]


def test_other_answers_are_refused(served: Served) -> None:
    wrong = replace(served.task, truth=served.task.truth * 1.01)
    with pytest.raises(Wrong, match=r"1\.0e-02|9\.9e-03"):
        Served(served.way, wrong, served.running).run(callers=1, seconds=0.1)
    full = replace(served.task, workload=WORKLOADS["W1"])
    with pytest.raises(Wrong, match="float32"):
        measure.check("it", full, full.truth.astype(np.float16))


def test_the_command_measures_judges_and_writes(
    base_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "SEARCH", 0.2)
    monkeypatch.setattr(measure, "WARM_UP", 0.1)
    wanted = ["--workloads", "W1-half", "--ways", "vitral", "--callers", "2,8"]
    wanted += ["--seconds", "0.3", "--rounds", "1"]
    files = ["--json", str(tmp_path / "all.json"), "--plot", str(tmp_path / "all.png")]
    assert main([*wanted, "--open-loop", "--repo", str(base_repo), *files]) == 0
    document = json.loads((tmp_path / "all.json").read_text())
    told = [(row["way"], row["callers"], bool(row["arrivals"])) for row in document["rows"]]
    assert told == [("limit", 0, False), ("vitral", 2, False), ("vitral", 8, False), ("vitral", 8, True)]
    assert all(row["rate"] > 0 for row in document["rows"])
    judged = {goal["what"] for goal in document["goals"] if goal["met"] is not None}
    assert judged == {"W1-half served / limit", "W1-half, open loop at 70 % of peak, p99 / p50"}
    with Image.open(tmp_path / "all.png") as drawn:
        assert drawn.size == (1540, 1045)
    assert "W1-half served / limit" in capsys.readouterr().out
