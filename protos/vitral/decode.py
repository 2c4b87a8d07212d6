"""How image files are decoded, by name and as the enum of the protos."""

from __future__ import annotations

from types import MappingProxyType

from vitral.errors import InvalidArgumentError
from vitral.v1 import embedding_service_pb2 as pb

EXACT = "exact"
"""As the preprocessing contract has it, bit for bit."""

FAST = "fast"
"""Large JPEGs at a fraction of their sides, which gives slightly other pixels; everything else exactly."""

MODES = (EXACT, FAST)
"""Both, the default first."""

_ENUM = MappingProxyType({EXACT: pb.DECODE_EXACT, FAST: pb.DECODE_FAST})


def demand(mode: str) -> str:
    """The mode itself.

    Raises:
        InvalidArgumentError: there is no such mode.
    """
    if mode not in MODES:
        raise InvalidArgumentError(f"unknown decode {mode!r}; known are {', '.join(MODES)}")
    return mode


def to_enum(mode: str) -> pb.Decode.ValueType:
    """The enum's value of a mode."""
    return _ENUM[mode]


def of_enum(value: pb.Decode.ValueType) -> str:
    """The mode of a value; servers that do not say decode exactly."""
    return FAST if value == pb.DECODE_FAST else EXACT
