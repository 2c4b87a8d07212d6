"""The charts of the page, as SVG: a bar against a budget, a histogram of errors, a map of patches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from vitral_export import histogram
from vitral_export.report.html import number, percent

_WIDTH, _LEFT, _RIGHT = 340, 8, 332  # of a histogram, and its plot
_TOP, _BOTTOM, _HEIGHT = 52, 150, 172
_MAP = 210  # longest side of a map
_SMALLEST = 1e-4  # part of the elements: bins of fewer do not widen a histogram to the left


@dataclass(frozen=True)
class Mark:
    """An error that is drawn into a histogram as a line, in rms of the output."""

    name: str
    at: float
    kind: str
    dash: str = ""


@dataclass(frozen=True)
class Place:
    """A token: its row and column on the patch grid; row -1 holds the tokens in front of the patches."""

    row: int
    column: int


def bar(part: float, torch: float | None, label: str) -> str:
    """What part of a budget is used; the whole width is the budget, the tick torch float32's own error."""
    long = 160 * min(1.0, part)
    tick = (
        ""
        if torch is None
        else f'<path class="torch" stroke-width="3" d="M{160 * min(1.0, torch):.1f} 0V18"/>'
    )
    full = " full" if part > 1 else ""
    return (
        '<svg class="bar" viewBox="0 0 160 18" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">'
        f'<rect class="track" y="3" width="160" height="12"/>'
        f'<rect class="fill{full}" y="3" width="{long:.1f}" height="12"/>'
        f"{tick}</svg>"
    )


def distribution(counts: Sequence[int], marks: Sequence[Mark]) -> str:
    """Bars of half an octave over a logarithmic axis of decades; empty where nothing is in them.

    Args:
        counts: elements in the bins of `histogram`.
        marks: lines; those that are 0 or not finite are left out.
    """
    every = sum(counts)
    drawn = [place for place in range(1, len(counts) - 1) if counts[place] > _SMALLEST * every]
    shown = [mark for mark in marks if 0 < mark.at < math.inf]
    if not drawn:
        return ""
    ends = [histogram.edges(drawn[-1])[1], *(mark.at for mark in shown)]
    axis = _Axis(math.log10(histogram.edges(drawn[0])[0]), math.log10(max(ends)) + 0.15)
    tallest = max(counts[place] for place in drawn)
    bars = "".join(_column(axis, place, counts[place] / tallest) for place in drawn)
    told = "; ".join(f"{mark.name} {number(mark.at)}" for mark in shown)
    label = f"Histogram of absolute errors in units of the output's rms: {told}"
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<path class="fill" d="{bars}"/>{axis.drawn()}{_lines(axis, shown)}'
        f'<text class="axis" x="{_LEFT}" y="{_TOP + 8}">highest bar: {percent(tallest / every)}</text></svg>'
    )


def patches(
    rows: int, columns: int, places: Mapping[Place, float], worst: Place, *, front: int, label: str
) -> str:
    """The patch grid, tokens in front above it; `places` are the darker the higher, `worst` has a ring."""
    side = _MAP / max(rows, columns, front)
    top = side + 8 if front else 1.0
    wide, high = max(columns, front) * side, top + rows * side

    def corner(place: Place) -> tuple[float, float]:
        return place.column * side, 1.0 if place.row < 0 else top + place.row * side

    filled = "".join(
        f'<rect class="fill" opacity="{0.25 + 0.75 * part:.2f}" x="{corner(place)[0]:.1f}" '
        f'y="{corner(place)[1]:.1f}" width="{side:.1f}" height="{side:.1f}"/>'
        for place, part in sorted(places.items(), key=lambda item: (item[0].row, item[0].column))
    )
    across, down = (value + side / 2 for value in corner(worst))
    before = _lattice(1, front, side, 1.0) if front else ""
    if front and side < 80:  # else there is no room beside it
        filled += f'<text class="axis" x="{front * side + 6:.1f}" y="{side / 2 + 5:.1f}">in front</text>'
    lines = before + _lattice(rows, columns, side, top)
    return (
        f'<svg class="map" viewBox="-8 -8 {wide + 16:.1f} {high + 16:.1f}" width="{wide + 16:.0f}" '
        f'role="img" aria-label="{escape(label)}">{filled}<path class="line" d="{lines}"/>'
        f'<circle class="ring" cx="{across:.1f}" cy="{down:.1f}" r="{max(5.0, side * 0.42):.1f}"/></svg>'
    )


@dataclass(frozen=True)
class _Axis:
    """Decimal logarithms at the two ends of a histogram."""

    low: float
    high: float

    def at(self, value: float) -> float:
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return _LEFT + (_RIGHT - _LEFT) * part

    def drawn(self) -> str:
        powers = range(math.ceil(self.low), math.floor(self.high) + 1)
        step = max(1, math.ceil(len(powers) / 7))
        ticks = [(power, self.at(10.0**power)) for power in powers if power % step == 0]
        lines = "".join(f"M{x:.1f} {_BOTTOM}v4" for _, x in ticks)
        names = "".join(
            f'<text class="axis" x="{x:.1f}" y="{_BOTTOM + 16}" text-anchor="middle">1e{power}</text>'
            for power, x in ticks
        )
        return f'<path class="ink" d="M{_LEFT} {_BOTTOM}H{_RIGHT}{lines}"/>{names}'


def _column(axis: _Axis, place: int, part: float) -> str:
    left, right = (axis.at(edge) for edge in histogram.edges(place))
    high = (_BOTTOM - _TOP) * part
    return f"M{left + 0.4:.1f} {_BOTTOM}V{_BOTTOM - high:.1f}H{right - 0.4:.1f}V{_BOTTOM}z"


def _lines(axis: _Axis, marks: Sequence[Mark]) -> str:
    """The leftmost line has the lowest name, so that no line crosses the name of another."""
    drawn = []
    for level, mark in enumerate(sorted(marks, key=lambda mark: mark.at, reverse=True)):
        x, y = axis.at(mark.at), 11 + 13 * level
        side, shift = ("start", 4) if x < _WIDTH / 2 else ("end", -4)
        dash = f' stroke-dasharray="{mark.dash}"' if mark.dash else ""
        drawn.append(
            f'<path class="{mark.kind}" stroke-width="1.5"{dash} d="M{x:.1f} {y - 9}V{_BOTTOM}"/>'
            f'<text class="halo" x="{x + shift:.1f}" y="{y}" text-anchor="{side}">'
            f"{escape(mark.name)} {number(mark.at)}</text>"
        )
    return "".join(drawn)


def _lattice(rows: int, columns: int, side: float, top: float) -> str:
    down = "".join(f"M{column * side:.1f} {top:.1f}v{rows * side:.1f}" for column in range(columns + 1))
    return down + "".join(f"M0 {top + row * side:.1f}h{columns * side:.1f}" for row in range(rows + 1))
