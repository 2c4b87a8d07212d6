"""Models of transformers from the files of a checkpoint, none of whose weights is made up or lost unseen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from vitral.errors import InvalidArgumentError
from vitral_export import hub
from vitral_export.hub import Checkpoint
from vitral_export.modules.sizes import MOST

_SHOWN = 5  # weights that a message names

Keys = Callable[[str], bool]
"""Whether the weight of a name is one of some kind."""


def load(found: Checkpoint, cls: Any, config: Any, *, may_lack: Keys, may_have: Keys) -> tuple[Any, set[str]]:
    """A model in eval mode, and the names of the weights that the checkpoint lacks.

    Args:
        found: the checkpoint.
        cls: a class of transformers.
        config: of the model, an instance of the class's own.
        may_lack: the weights that need not be there.
        may_have: the weights of the checkpoint that the model has no use for.

    Raises:
        InvalidArgumentError: the files are not safetensors, or weights are missing, left over or of
            another shape.
    """
    hub.check_files(found, unread=may_have)
    with hub.quiet(), hub.told(found.name):
        with torch.device("meta"):
            _check_sizes(found.name, cls(config))
        model, info = cls.from_pretrained(
            found.folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    _check_keys(found.name, info, may_lack, may_have)
    return model.eval(), set(map(str, info["missing_keys"]))


def _check_sizes(name: str, model: nn.Module) -> None:
    """Refuses a config whose model no memory could hold, before any of it is made."""
    for key, parameter in model.named_parameters():
        if parameter.numel() > MOST:
            raise InvalidArgumentError(
                f"{name}: {key} would have {parameter.numel()} values, the most is {MOST}"
            )


def _check_keys(name: str, info: Mapping[str, Any], may_lack: Keys, may_have: Keys) -> None:
    problems = {
        "lacks": sorted(key for key in info["missing_keys"] if not may_lack(key)),
        "has another shape for": sorted(
            f"{key} ({tuple(its)} for {tuple(own)})" for key, its, own in info["mismatched_keys"]
        ),
        "has unknown": sorted(key for key in info["unexpected_keys"] if not may_have(key)),
    }
    for what, keys in problems.items():
        if keys:
            more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            raise InvalidArgumentError(f"{name} {what} {', '.join(keys[:_SHOWN])}{more}")
