"""What vitral is held against: other ways of serving the same model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.serving.peers.litserve import LitServe
from benchmarks.serving.peers.plain import Plain
from benchmarks.serving.peers.triton import Triton
from benchmarks.serving.way import Way

_ALL: tuple[Way, ...] = (Plain(), Triton(), LitServe())

PEERS: Mapping[str, Way] = MappingProxyType({way.name: way for way in _ALL})
"""Every peer that serves, by name; the plain torch loop, which does not, is `loop.py`."""
