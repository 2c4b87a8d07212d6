"""Readers of ATen's interpolations, and of what else stays a step where it takes constants alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch.fx import Node

from vitral.errors import ProofError
from vitral_export.builder import Builder
from vitral_export.onnx_readers import RESIZE
from vitral_export.operations import Operand
from vitral_export.torch_nodes import Known, Reader, arguments_of, operand_of, shape_of

_SMOOTH_A = -0.5
"""The cubic's coefficient where torch averages what it makes smaller; it is -0.75 everywhere else."""


def _resized(mode: str, *, smooth: bool) -> Reader:
    """A reader for an interpolation to a given height and width."""

    def reader(node: Node, known: Known, builder: Builder) -> Operand:
        source, _, align, *scales = arguments_of(node)
        if any(scale is not None for scale in scales):
            raise ProofError(f"structure: {node.name} resizes by a factor, for which there is no rule")
        attributes: dict[str, Any] = {**RESIZE, "mode": mode.encode()}
        if align:
            attributes["coordinate_transformation_mode"] = b"align_corners"
        if smooth:
            attributes |= {"antialias": 1, "exclude_outside": 1, "cubic_coeff_a": _SMOOTH_A}
        if mode != "cubic":
            del attributes["cubic_coeff_a"]
        operand = operand_of(source, known)
        return builder.add("Resize", [operand], name=node.name, shape=shape_of(node), attributes=attributes)

    return reader


def _plain(kind: str) -> Reader:
    def reader(node: Node, known: Known, builder: Builder) -> Operand:
        return builder.add(kind, [operand_of(node.args[0], known)], name=node.name, shape=shape_of(node))

    return reader


RESIZES: Mapping[str, Reader] = MappingProxyType(
    {
        f"aten.{name}.{overload}": _resized(mode, smooth=name.endswith("_aa"))
        for name, mode in (
            ("upsample_bicubic2d", "cubic"),
            ("_upsample_bicubic2d_aa", "cubic"),
            ("upsample_bilinear2d", "linear"),
            ("_upsample_bilinear2d_aa", "linear"),
        )
        for overload in ("default", "vec")
    }
)
"""Interpolations by their names in torch."""

KEPT: Mapping[str, Reader] = MappingProxyType(
    {**RESIZES, "aten.cos.default": _plain("Cos"), "aten.sin.default": _plain("Sin")}
)
"""Operators that stay steps in a model of dynamic size, whatever they take.

There they are part of the graph: as a constant they would say that it knows one size only. Their last bits
also differ from one implementation to the next.
"""
