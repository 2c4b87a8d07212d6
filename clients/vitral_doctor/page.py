"""The report for people: tables, with rich where it is installed and plain where it is not."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitral.decode import FAST
from vitral_doctor.machine import SHM
from vitral_doctor.report import Findings, Report

if TYPE_CHECKING:
    from vitral_doctor.models import Examined

Cells = Sequence[str]


@dataclass(frozen=True)
class Section:
    """A table.

    Attributes:
        title: above it.
        columns: heads; none for a table of names and values.
        rows: its cells.
    """

    title: str
    columns: Cells
    rows: Sequence[Cells]


def show(report: Report) -> None:
    """Prints it."""
    sections = list(_sections(report.findings))
    if importlib.util.find_spec("rich"):
        _rich(sections)
    else:
        _plain(sections)
    for change in report.changes:
        print(f"{'FAULT ' if change.fault else 'advice'}  {change.text}")
    verdict = "a server would start and serve here" if report.serves else "no server would serve here"
    print(f"{verdict} ({report.seconds:.1f} s)")


def _sections(found: Findings) -> Iterator[Section]:
    yield Section(
        "versions",
        (),
        [(name, version or "not installed") for name, version in found.versions.libraries.items()],
    )
    if found.versions.missing:
        roles = [
            (role, f"lacks {', '.join(lacking)}" if lacking else "ready")
            for role, lacking in found.versions.missing.items()
        ]
        yield Section("roles", (), roles)
    yield Section("machine", (), list(_machine(found)))
    if found.models:
        heads = ("model", "version", "on", "proven on", "rel. L2 / budget", "pixels", "weights", "load ms")
        yield Section(f"what {found.asked.repo} would serve", heads, [_model(one) for one in found.models])
        speeds = [_speed(model) for model in found.models if model.speeds]
        if speeds:
            first = max(found.models, key=lambda model: len(model.speeds)).speeds
            timed = ("model, images/s", *(f"batch {one.batch}, {_threads(one.threads)}" for one in first))
            yield Section("speed of a run, without decoding", timed, speeds)


def _machine(found: Findings) -> Iterator[Cells]:
    ran, there, disk, decoded = found.runtime, found.machine, found.disk, found.decoding
    yield "runtime", ran.wheel or "none that can be used"
    if ran.providers:
        yield "providers", ", ".join(ran.providers)
    if not ran.fault:
        yield "CUDA", ran.cuda_fault or "works"
    yield "NVIDIA GPUs", "no driver" if ran.gpus is None else str(ran.gpus)
    load = "" if there.load is None else f", load {there.load:.1f}"
    yield "cores", f"{there.usable} of {there.cores}{load}"
    yield str(SHM), "none" if there.shm_bytes is None else f"{there.shm_bytes / 2**20:,.0f} MiB"
    written = disk.fault or f"written at {disk.bytes_per_s / 1e6:,.0f} MB/s"
    yield f"disk at {disk.folder}", f"{disk.free / 1e9:,.1f} GB free, {written}"
    fast = "fast: large JPEGs give slightly other pixels; what stands below of pixels is of exact decoding"
    yield "decode", fast if found.asked.decode == FAST else found.asked.decode
    if decoded is not None:
        size = f"{decoded.width} x {decoded.height}"
        speed = f"{decoded.one:.0f} images/s in 1 thread, {decoded.all:.0f} in {decoded.threads}"
        yield "decoding", f"{speed} ({decoded.picture}, {size})"


def _model(model: Examined) -> Cells:
    if not model.version:
        return [model.name, "none", *[""] * 6]
    return (
        model.name,
        model.version,
        f"{model.provider} ({model.device})",
        ", ".join(model.proven_on) or "nothing",
        f"{model.rel_l2:.1e} / {model.rel_l2_budget:.1e}",
        "equal" if model.pixels_equal else "other",
        model.weights,
        f"{model.load_ms:.0f}",
    )


def _speed(model: Examined) -> Cells:
    return (model.name, *(f"{speed.images_per_s:.0f}" for speed in model.speeds))


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _rich(sections: Sequence[Section]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console.width = 160  # a pipe has no width: do not fold at the 80 columns that are assumed
    for section in sections:
        table = Table(title=section.title, title_justify="left", show_header=bool(section.columns))
        for index in range(max(len(section.columns), *map(len, section.rows))):
            table.add_column(section.columns[index] if section.columns else "", overflow="fold")
        for row in section.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)


def _plain(sections: Sequence[Section]) -> None:
    for section in sections:
        rows = [section.columns, *section.rows] if section.columns else list(section.rows)
        widths = [max(len(row[index]) for row in rows if index < len(row)) for index in range(len(rows[0]))]
        print(section.title)
        for row in rows:
            print(
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
            )
        print()
