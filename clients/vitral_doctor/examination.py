"""The order of the day: sizes first, then what is timed, each alone on the machine."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from vitral import decode as decodes
from vitral.errors import DeviceError, ModelNotFoundError
from vitral_doctor import changes, decoding, machine, runtime, versions
from vitral_doctor.report import Asked, Findings, Report

NEEDED = ("pillow", "safetensors", "tritonclient")
"""Distributions without which the engine opens no model."""


def examine(asked: Asked) -> Report:
    """Looks at everything and opens every model.

    Raises:
        InvalidArgumentError: the device or the decode is none.
    """
    decodes.demand(asked.decode)
    begun = perf_counter()
    installed, ran, there = versions.look(), runtime.look(), machine.look()
    disk = machine.write_speed(asked.out)
    decoded = decoding.measure(asked.repo, there.usable) if installed.libraries["pillow"] else None
    found = _with_models(Findings(asked, installed, ran, there, disk, decoded), begun + asked.seconds)
    return Report(found, changes.of(found), perf_counter() - begun)


def _with_models(found: Findings, until: float) -> Findings:
    if found.runtime.fault:
        return found
    if lacking := [name for name in NEEDED if not versions.version(name)]:
        return replace(found, repo_fault=f"no model can be opened without {' and '.join(lacking)}")
    from vitral_doctor import models
    from vitral_engine.device import place

    asked = found.asked
    try:
        placement = place(asked.device)
    except DeviceError as error:
        return replace(found, device_fault=str(error))
    try:
        each = models.examine(asked.repo, asked.models, placement, threads=found.machine.usable, until=until)
        return replace(found, models=tuple(each))
    except ModelNotFoundError as error:
        return replace(found, repo_fault=str(error))
