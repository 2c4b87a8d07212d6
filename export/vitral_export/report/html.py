"""Pieces of HTML, and how numbers are written on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

TIMES = " × "
"""Between extents."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and that of the group it stands in where there is one."""

    name: str
    group: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table: its heading in HTML, and cells that are whole `<td>`."""

    heading: str
    cells: Sequence[str]


def number(value: float) -> str:
    """Two digits: `3.1e-7`."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    digits, _, power = f"{value:.1e}".partition("e")
    return digits if power == "+00" else f"{digits}e{int(power)}"


def share(found: float, allowed: float) -> float:
    """What part of a budget an error takes; inf where it is an error without a budget, or not a number."""
    if found == 0:
        return 0.0
    part = found / allowed if allowed > 0 else math.inf
    return part if part >= 0 else math.inf


def percent(part: float) -> str:
    """`39 %`; what is over a budget never rounds to within, what is not 0 never to 0."""
    if not math.isfinite(part):
        return "over"
    if 0 < part < 0.005:
        return "< 1 %"
    return f"{math.ceil(part * 100) if part > 1 else round(part * 100)} %"


def count(amount: int, noun: str, plural: str = "") -> str:
    """`1 thread`, `1,152 comparisons`, `196 patches`."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def several(values: Sequence[str]) -> str:
    """`a, b and c`."""
    return (
        values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}" if values else "none"
    )


def provider(name: str) -> str:
    """`CPU` of `CPUExecutionProvider`."""
    return name.removesuffix("ExecutionProvider")


def code(text: str) -> str:
    """A name as it is typed. Where it has to break, it breaks after an underscore."""
    return f"<code>{escape(text).replace('_', '_<wbr>')}</code>"


def cell(content: str, *, kind: str = "") -> str:
    """A cell of HTML content, of a class of the style sheet."""
    return f'<td class="{kind}">{content}</td>' if kind else f"<td>{content}</td>"


def shade(part: float) -> str:
    """A cell with a part of a budget, the darker the more of it is used."""
    if part <= 1:
        return f'<td style="--share:{part:.2f}">{percent(part)}</td>'
    return f'<td class="over">{percent(part)}</td>'


def section(anchor: str, heading: str, *parts: str) -> str:
    """A section that can be linked to; empty parts are left out."""
    inner = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}"><h2>{heading}</h2>\n{inner}</section>'


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def items(lines: Sequence[str]) -> str:
    """A list of plain sentences."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values, the values HTML."""
    rows = "".join(f'<tr><th scope="row">{escape(key)}</th><td>{value}</td></tr>' for key, value in pairs)
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def table(
    name: str, corner: str, columns: Sequence[Column], groups: Mapping[str, Sequence[Row]], *, kind: str
) -> str:
    """A table under its name, which scrolls in a box of its own where it is wider than the page.

    `corner` is the heading of the row headings; `groups` has a heading in HTML to the rows under it, and an
    empty one is left out; `kind` is a class of the style sheet.
    """
    said = escape(name)
    body = "\n".join(_group(heading, rows, len(columns) + 1) for heading, rows in groups.items())
    return (
        f'<h3>{said}</h3>\n<div class="wide" role="region" tabindex="0" aria-label="{said}">'
        f'<table class="{kind}" aria-label="{said}">\n<thead>{_head(corner, columns)}</thead>\n'
        f"{body}</table></div>"
    )


def _group(heading: str, rows: Sequence[Row], width: int) -> str:
    over = f'<tr class="group"><th scope="rowgroup" colspan="{width}">{heading}</th></tr>' if heading else ""
    lines = (f'<tr><th scope="row">{row.heading}</th>{"".join(row.cells)}</tr>' for row in rows)
    return f"<tbody>{over}{''.join(lines)}</tbody>"


def _head(corner: str, columns: Sequence[Column]) -> str:
    names = "".join(f'<th scope="col">{escape(column.name)}</th>' for column in columns)
    if not any(column.group for column in columns):
        return f'<tr><th scope="col">{escape(corner)}</th>{names}</tr>'
    spans = [(group, len(list(mine))) for group, mine in groupby(columns, lambda column: column.group)]
    groups = "".join(f'<th scope="colgroup" colspan="{span}">{escape(group)}</th>' for group, span in spans)
    return f'<tr><th scope="col" rowspan="2">{escape(corner)}</th>{groups}</tr><tr>{names}</tr>'
