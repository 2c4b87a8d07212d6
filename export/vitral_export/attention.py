"""Attention of transformers' models, traced without the mask of ones that they would make up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_UNMASKED = "vitral_unmasked"


@contextmanager
def unmasked(module: nn.Module) -> Iterator[None]:
    """While torch traces, sdpa attention without a mask in every model of transformers inside `module`.

    Run eagerly transformers leaves a mask of ones out by itself; a trace would drag it into every layer. What
    is run is still held against the eager model, so a mask that says something cannot be lost unseen.
    """
    models: list[Any] = []
    if torch.compiler.is_exporting() and "transformers" in sys.modules:
        from transformers import PreTrainedModel

        models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    own = [model.config._attn_implementation for model in models]
    if models:
        _register()
    try:
        for model in models:
            model.set_attn_implementation(_UNMASKED)
        yield
    finally:
        for model, name in zip(models, own, strict=True):
            model.set_attn_implementation(name)


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(_UNMASKED, sdpa_attention_forward)
    AttentionMaskInterface.register(_UNMASKED, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    """No mask: every token sees every other."""
