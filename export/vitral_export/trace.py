"""The module as torch traces it, once for the exporter and afresh for the structural net."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vitral.errors import ProofError


def trace(module: nn.Module, shape: Sequence[int]) -> torch.export.ExportedProgram:
    """The ATen program of `module` for a float32 input of this shape, whose first extent is dynamic.

    Attention becomes its two products and a softmax: what torch's exporter makes of the fused operator has
    to guard against masks that are not there, in every layer.

    Raises:
        ProofError: torch cannot trace the module, or only for one batch size.
    """
    batch = torch.export.Dim.DYNAMIC  # raises where the extent would come out fixed
    try:
        with quiet_exporter():
            program = torch.export.export(module, (torch.zeros(tuple(shape)),), dynamic_shapes=({0: batch},))
            fused = torch.ops.aten.scaled_dot_product_attention.default
            plain: torch.export.ExportedProgram = program.run_decompositions({fused: _attention})
    except Exception as error:  # the tracer raises whatever a module's code makes it raise
        raise ProofError(f"torch cannot trace {_name(module)}: {_reason(error)}") from error
    return plain


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Drops what torch's exporter says that no reader can act on, and nothing else."""
    # torch 2.13 logs a warning for each torchvision operator where torchvision is not installed.
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    logger.addFilter(_about_no_torchvision)
    try:
        with warnings.catch_warnings():
            # torch 2.13 warns about its own copies of tree specs.
            warnings.filterwarnings(
                "ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning
            )
            yield
    finally:
        logger.removeFilter(_about_no_torchvision)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # the operator's own signature
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(Q K^T s) V, for (..., T, D) without mask and dropout."""
    if attn_mask is not None or is_causal or dropout_p or enable_gqa:
        raise ValueError("attention with a mask, dropout or grouped queries is not supported")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query, key.transpose(-2, -1)) * factor  # ... T D x ... D T -> ... T T
    return torch.matmul(torch.softmax(scores, dim=-1), value)  # ... T T x ... T D -> ... T D


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "Constraints violated" in lines[0]:
        return "its code fixes the number of images (len(x) does, x.shape[0] does not)"
    return lines[0]


def _name(module: nn.Module) -> str:
    return type(getattr(module, "module", module)).__name__


def _about_no_torchvision(record: logging.LogRecord) -> bool:
    return "torchvision is not installed" not in record.getMessage()
