"""Faults that are planted into the written files of an export, between export and verification."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.faults import encoder, families, patches, tokens
from benchmarks.faults.planting import Fault

FAULTS: Mapping[str, Fault] = MappingProxyType(
    {fault.name: fault for fault in (*patches.FAULTS, *tokens.FAULTS, *encoder.FAULTS, *families.FAULTS)}
)
"""Every fault by its name."""
