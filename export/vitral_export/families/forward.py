"""One pass of a transformers model's own forward, with what flows through it on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitral_export.attention import unmasked
from vitral_export.families.family import Family
from vitral_export.families.hidden import Hidden


@dataclass(frozen=True)
class Forward:
    """Every output of a family's models by name.

    Attributes:
        family: of the models.
        hidden: which hidden states it gives beside what every model has.
    """

    family: Family
    hidden: tuple[Hidden, ...] = ()

    def __call__(self, model: nn.Module, rows: Tensor) -> Mapping[str, Tensor]:
        """The outputs for pixel values (B, C, H, W)."""
        family, blocks = self.family, self.family.blocks(model)
        places = {
            "patch_embeddings": model.get_submodule(family.patches),
            "embeddings": model.get_submodule(family.embeddings),
        }
        places |= {f"block {item.block}": blocks[item.block - 1] for item in self.hidden}
        with unmasked(model), _watched(places) as seen, _in_order(model, family, rows) as more:
            found = model(pixel_values=rows, return_dict=True, **more)
        outputs = {
            "last_hidden_state": found.last_hidden_state,
            "patch_embeddings": family.tokens(seen["patch_embeddings"]),
            "embeddings": seen["embeddings"],
        }
        if (pooled := getattr(found, "pooler_output", None)) is not None:
            outputs["pooler_output"] = pooled
        for item in self.hidden:
            tokens, norm = seen[f"block {item.block}"], family.last_norm(model)
            outputs[item.name] = norm(tokens) if item.normed and norm is not None else tokens
        return outputs


@contextmanager
def _watched(places: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What modules give while it lasts, by name; of several results the first."""
    seen: dict[str, Tensor] = {}

    def watch(name: str, output: Any) -> None:
        seen[name] = output[0] if isinstance(output, tuple) else output

    with ExitStack() as stack:
        for name, place in places.items():
            handle = place.register_forward_hook(lambda _, __, output, name=name: watch(name, output))
            stack.callback(handle.remove)
        yield seen


@contextmanager
def _in_order(model: Any, family: Family, rows: Tensor) -> Iterator[dict[str, Tensor]]:
    """While it lasts, a model that hides and shuffles patches keeps all of them where they are.

    Its shuffle sorts noise, and that of 0, 1, 2 ... moves nothing. It is left out where torch traces, which
    would drag the sorting into the graph; what is run is still held against the eager model, which sorts.
    """
    if not family.shuffles:
        yield {}
        return
    inner = model.embeddings
    ratio, inner.config.mask_ratio = inner.config.mask_ratio, 0.0
    if torch.compiler.is_exporting():
        inner.random_masking = _as_they_are
    try:
        count = inner.patch_embeddings.num_patches
        yield {"noise": torch.arange(count, dtype=rows.dtype).expand(rows.shape[0], -1)}
    finally:
        inner.config.mask_ratio = ratio
        inner.__dict__.pop("random_masking", None)


def _as_they_are(sequence: Tensor, _: Tensor | None = None) -> tuple[Tensor, None, None]:
    """All patches, no mask, no order to restore."""
    return sequence, None, None
