"""What the server is to reach, judged by the figures of one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.serving.drift import Drift
from benchmarks.serving.figures import Row
from benchmarks.serving.startup import Startup
from benchmarks.serving.ways import ENGINE, FAST, LIMIT, LOOP, VITRAL

CALLERS = 8
"""At which the goals are judged."""


@dataclass(frozen=True)
class Goal:
    """One goal.

    Attributes:
        what: what is compared.
        wanted: the bound in words.
        figure: what came out; NaN where this run has not measured it.
        met: whether it is in the bound; None where there is no figure.
        note: what else belongs to the figure.
    """

    what: str
    wanted: str
    figure: float
    met: bool | None
    note: str = ""


@dataclass(frozen=True)
class Evidence:
    """What a run has found."""

    rows: Sequence[Row]
    startup: Startup | None = None
    drift: Drift | None = None

    def row(self, way: str, workload: str, callers: int = CALLERS) -> Row | None:
        """The closed loop of this way; without callers where it serves nobody."""
        wanted = (way, workload, 0 if way in (LIMIT, LOOP) else callers, 0.0)
        keys = ((row.way, row.workload, row.callers, row.arrivals) for row in self.rows)
        return next((row for row, key in zip(self.rows, keys, strict=True) if key == wanted), None)


def judged(found: Evidence) -> list[Goal]:
    """Every goal."""
    return [*_shares(found), *_peers(found), *_latencies(found), *_start(found.startup)]


def _shares(found: Evidence) -> Iterator[Goal]:
    for workload, least in (("W1", 0.55), ("W1-half", 0.70), ("W2", 0.80)):
        yield _ratio(found, f"{workload} served / limit", least, VITRAL, LIMIT, workload)


def _peers(found: Evidence) -> Iterator[Goal]:
    for workload, least in (("W1", 1.6), ("W2", 1.2)):
        goal = _ratio(found, f"{workload} against Triton", least, VITRAL, "triton", workload)
        yield replace(goal, note=_arithmetic(found, workload))
    yield _tail(found)
    yield _ratio(found, "W2 against the torch loop", 2.6, VITRAL, LOOP, "W2")
    yield _ratio(found, "W2 against the plain gRPC server", 1.15, VITRAL, "plain", "W2")
    fast = _ratio(found, "W3, decode = fast against exact", 7.0, FAST, VITRAL, "W3")
    if (drift := found.drift) is None:
        yield fast
        return
    told = f"relative L2 {drift.rel_l2:.1e}, at worst {drift.worst:.1e}, of {drift.pictures} pictures"
    note = f"{told}; nearest neighbour the same for {drift.neighbours:.1%} of patches"
    yield replace(fast, note=note)


def _arithmetic(found: Evidence, workload: str) -> str:
    """How much faster than Triton anything could be that serves on the same cores."""
    bare, ours, theirs = (found.row(way, workload) for way in (LIMIT, VITRAL, "triton"))
    if not (bare and ours and theirs and bare.server_cpu):
        return ""
    spent = [row.server_cpu + row.client_cpu for row in (bare, ours, theirs)]
    said = f"CPU ms an image, both sides: limit {spent[0]:.2f}, vitral {spent[1]:.2f}, Triton {spent[2]:.2f}"
    return f"{said}; without any RPC {spent[2] / spent[0]:.2f} x"


def _tail(found: Evidence) -> Goal:
    rows = [found.row(way, "W1") for way in (VITRAL, "triton")]
    ratio = math.nan
    if rows[0] is not None and rows[1] is not None:
        ratio = rows[0].percentile(99) / rows[1].percentile(99)
    return _goal("W1 p99 against Triton's", "<= 1", ratio, lambda figure: figure <= 1)


def _latencies(found: Evidence) -> Iterator[Goal]:
    served, bare = found.row(VITRAL, "W4", 1), found.row(ENGINE, "W4", 1)
    beyond = served.percentile(50) - bare.percentile(50) if served and bare else math.nan
    what = "W4, 1 caller, p50 over that of the engine in process, ms"
    yield _goal(what, "<= 0.6", beyond, lambda figure: figure <= 0.6)
    late = [row for row in found.rows if row.arrivals and row.way == VITRAL]
    tails = {row.workload: row.percentile(99) / row.percentile(50) for row in late}
    if not tails:
        yield _goal("open loop at 70 % of peak, p99 / p50", "<= 3", math.nan, bool)
    for workload, tail in tails.items():
        what = f"{workload}, open loop at 70 % of peak, p99 / p50"
        yield _goal(what, "<= 3", tail, lambda figure: figure <= 3)


def _start(found: Startup | None) -> Iterator[Goal]:
    ready = found.ready_s if found else math.nan
    yield _goal("start to ready, ViT-B/16 patch embedding, s", "<= 1.5", ready, lambda figure: figure <= 1.5)
    used = found.used_mib * 2**20 / 1e6 if found else math.nan
    note = f"{found.resident_mib * 2**20 / 1e6:.0f} when it is ready" if found else ""
    goal = _goal("resident memory after some calls, MB", "<= 250", used, lambda figure: figure <= 250)
    yield replace(goal, note=note)


def _ratio(found: Evidence, what: str, least: float, one: str, other: str, workload: str) -> Goal:
    rows = found.row(one, workload), found.row(other, workload)
    ratio = rows[0].rate / rows[1].rate if rows[0] is not None and rows[1] is not None else math.nan
    return _goal(what, f">= {least:g}", ratio, lambda figure: figure >= least)


def _goal(what: str, wanted: str, figure: float, holds: Callable[[float], bool]) -> Goal:
    return Goal(what, wanted, figure, None if math.isnan(figure) else holds(figure))
