"""The module as torch traces it, once for the exporter and afresh for the structural net."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vitral.errors import ProofError
from vitral_export import constants, decompositions


def trace(
    module: nn.Module,
    shape: Sequence[int],
    *,
    patch: tuple[int, int] | None = None,
    kept: Collection[str] = (),
    attention: bool = False,
) -> torch.export.ExportedProgram:
    """The ATen program of `module` for a float32 input of this shape, whose first extent is dynamic.

    Where a patch is given, height and width (the last two extents) are dynamic multiples of its own. What
    depends on weights alone becomes a constant, but for the results of the operators in `kept`.

    Attention becomes its two products and a softmax: what torch's exporter makes of the fused operator has
    to guard against masks that are not there, in every layer. Batch norm becomes its four steps: the exporter
    would fold it into the weights before it, rounded, and they would not be the module's own any more.

    With `attention`, that of four axes stays the one operator that it is in operator sets from 23 on.

    Raises:
        ProofError: torch cannot trace the module, or only for one batch size or image size.
    """
    dynamic: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}  # raises where the extent would come out fixed
    if patch is not None:
        dynamic |= {2: patch[0] * torch.export.Dim("rows"), 3: patch[1] * torch.export.Dim("columns")}
    try:
        # torch prints the code of a module that it cannot trace, beside the error.
        with quiet_exporter(), redirect_stderr(io.StringIO()):
            program = torch.export.export(module, (torch.zeros(tuple(shape)),), dynamic_shapes=(dynamic,))
            plain: torch.export.ExportedProgram = program.run_decompositions(_plainer(attention))
            constants.fold(plain, kept=kept)
    except Exception as error:  # the tracer raises whatever a module's code makes it raise
        raise ProofError(f"torch cannot trace {_name(module)}: {_reason(error)}") from error
    return plain


_HEADS_AND_TOKENS = 4  # axes: batch, heads, tokens, width of a head


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Drops what torch's exporter says that no reader can act on, and nothing else."""
    for name, keep in _LOGGED.items():
        logging.getLogger(name).addFilter(keep)
    try:
        with warnings.catch_warnings():
            # torch 2.13 warns about its own copies of tree specs.
            warnings.filterwarnings(
                "ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning
            )
            yield
    finally:
        for name, keep in _LOGGED.items():
            logging.getLogger(name).removeFilter(keep)


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
    """softmax(Q K^T s + M) V, for (..., T, D) without dropout; a mask M is of numbers, which are added."""
    if is_causal or dropout_p or enable_gqa:
        raise ValueError("causal attention, dropout or grouped queries are not supported")
    if attn_mask is not None and attn_mask.dtype != query.dtype:
        raise ValueError(f"attention with a mask of {attn_mask.dtype} is not supported")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query, key.transpose(-2, -1)) * factor  # ... T D x ... D T -> ... T T
    if attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, dim=-1), value)  # ... T T x ... T D -> ... T D


def _odd_attention(query: Tensor, *others: Any, **options: Any) -> Any:
    """Attention of other than four axes, or with a mask, as plainer operators; any other stays as it is."""
    masked = (others[2] if len(others) > 2 else options.get("attn_mask")) is not None
    plain = masked or query.dim() != _HEADS_AND_TOKENS
    return _attention(query, *others, **options) if plain else NotImplemented


def _batch_norm(
    rows: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,  # the operator's own signature
) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) w / sqrt(var + eps) + b along axis 1, of eval mode; nothing for a batch's statistics."""
    shape = (-1, *[1] * (rows.dim() - 2))  # C -> C 1 1
    scale = torch.sqrt(variance + eps)
    scale = torch.reciprocal(scale) if weight is None else weight / scale
    scaled = (rows - mean.reshape(shape)) * scale.reshape(shape)
    none = rows.new_empty((0,))
    return (scaled if bias is None else scaled + bias.reshape(shape)), none, none


def _repeat(rows: Tensor, repeats: Sequence[int | torch.SymInt]) -> Any:
    """A repeat of what is there once, which is an expansion; any other stays as it is."""
    extents = [1] * (len(repeats) - rows.dim()) + list(rows.shape)
    pairs = list(zip(extents, repeats, strict=True))
    if not all(isinstance(extent, int) and 1 in (extent, times) for extent, times in pairs):
        return NotImplemented
    return rows.expand([times if extent == 1 else extent for extent, times in pairs]).clone()


def _stack(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Parts side by side along a new axis."""
    return torch.cat([part.unsqueeze(dim) for part in parts], dim)


def _plainer(attention: bool) -> dict[Any, Callable[..., Any]]:
    """Operators that are written with plainer ones, for torch's exporter and for the structural net alike."""
    aten = torch.ops.aten
    return {
        aten._native_batch_norm_legit_no_training.default: _batch_norm,
        aten.repeat.default: _repeat,
        aten.scaled_dot_product_attention.default: _odd_attention if attention else _attention,
        aten.stack.default: _stack,
        **decompositions.plainer(),
    }


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "Constraints violated" in lines[0]:
        return "its code fixes the number of images (len(x) does, x.shape[0] does not)"
    return lines[0]


def _name(module: nn.Module) -> str:
    return type(getattr(module, "module", module)).__name__


def _not_about_torchvision(record: logging.LogRecord) -> bool:
    return "torchvision is not installed" not in record.getMessage()


def _nothing(_: logging.LogRecord) -> bool:
    return False


_LOGGED: Mapping[str, Callable[[logging.LogRecord], bool]] = MappingProxyType(
    {
        # torch 2.13 logs a warning for each torchvision operator where torchvision is not installed.
        "torch.onnx._internal.exporter._registration": _not_about_torchvision,
        # What the optimisers leave as it is; and where torch gives up, which the error says.
        "onnx_ir.passes.common.initializer_deduplication": _nothing,
        "onnxscript.optimizer._constant_folding": _nothing,
        "torch.fx.experimental.symbolic_shapes": _nothing,
    }
)
"""Loggers of the exporter, and which of their records are kept."""
