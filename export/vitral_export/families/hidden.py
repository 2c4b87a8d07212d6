"""The outputs `hidden_states.K`: tokens behind block K, as they are or through the last LayerNorm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral_export.families.family import Family
from vitral_export.loaded import float_output

_NAME = re.compile(r"hidden_states\.([1-9][0-9]*)(\.normed)?")
_STEM = "hidden_states"


@dataclass(frozen=True)
class Hidden:
    """One of them.

    Attributes:
        name: of the output.
        block: the block behind which it is taken, counted from 1.
        normed: whether it goes through the last LayerNorm.
    """

    name: str
    block: int
    normed: bool


def asked(names: Sequence[str], model: nn.Module, family: Family) -> list[Hidden]:
    """Those that are among these output names.

    Raises:
        InvalidArgumentError: one that a model does not have is named.
    """
    depth = len(family.blocks(model))
    found = []
    for name in dict.fromkeys(names):
        if name.partition(".")[0] != _STEM:
            continue
        match = _NAME.fullmatch(name)
        if match is None or int(match[1]) > depth:
            raise InvalidArgumentError(f"there is no output {name!r}; there are {known(model, family)}")
        if match[2] and family.last_norm(model) is None:
            raise InvalidArgumentError(f"there is no output {name!r}: the model has no last LayerNorm")
        found.append(Hidden(name, int(match[1]), bool(match[2])))
    return found


def known(model: nn.Module, family: Family) -> str:
    """The range of names, in words; empty for a model without blocks."""
    depth = len(family.blocks(model))
    if not depth:
        return ""
    names = f"{_STEM}.1 to {_STEM}.{depth}" if depth > 1 else f"{_STEM}.1"
    return names if family.last_norm(model) is None else f"{names}, each with .normed too"


def output(item: Hidden, shape: Sequence[pb.Axis], model: nn.Module, family: Family) -> pb.Output:
    """What a spec says of one."""
    of = f"tokens after block {item.block} of {len(family.blocks(model))}"
    norm = "through the model's last LayerNorm" if item.normed else "before any last LayerNorm"
    return float_output(
        item.name,
        shape,
        prefix=family.prefix_tokens(model.config),
        image_dependent_prefix=bool(family.prefix_tokens(model.config)),
        meaning=f"{of}, {norm}",
    )
