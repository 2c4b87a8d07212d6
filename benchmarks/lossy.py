"""A version folder's graphs in another precision, without tracing the module again."""

from __future__ import annotations

from pathlib import Path

import onnx

from vitral.v1 import model_pb2 as pb
from vitral_export import fused, onnx_graph
from vitral_export.precision.graphs import converted


def rewrite(folder: Path, spec: pb.ModelSpec, precision: str, to: Path) -> pb.ModelSpec:
    """Writes the float32 graphs of `folder` in this precision into a new folder; gives what they are then."""
    models = {graph.file: onnx.load(folder / graph.file) for graph in spec.graphs}
    made = converted(models, precision)
    to.mkdir(parents=True)
    onnx_graph.save(to, made, scratch=folder)
    new = pb.ModelSpec()
    new.CopyFrom(spec)
    new.precision = precision
    for graph in new.graphs:
        graph.fused.clear()
        graph.fused.update(fused.counted(to / graph.file, made[graph.file]))
    return new
