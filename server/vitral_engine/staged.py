"""Whether and how one graph is staged: from what an operator wants to lanes that can run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnxruntime as ort

from vitral import dynamic
from vitral.dynamic import Size
from vitral.tensors import numpy_dtype
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine import tensorrt
from vitral_engine.buffers import Signature, Slot
from vitral_engine.cuda import CudaMemory, context
from vitral_engine.gate import GATE
from vitral_engine.memory import HostMemory, Memory
from vitral_engine.placement import CPU, TENSORRT, Placement
from vitral_engine.stage import Stage
from vitral_engine.staging import Staging

_BFLOAT16 = 16  # of onnx's TensorProto


def fitted(
    placement: Placement, staging: Staging, spec: pb.ModelSpec, graph: pb.Graph, *, level: str
) -> Placement:
    """The placement with the options that only this graph and these settings need.

    Raises:
        InvalidArgumentError: the placement cannot do what is wanted.
    """
    staging.demand(placement)
    if placement.provider == TENSORRT:
        return tensorrt.kept(placement, spec, graph, level=level, max_batch=staging.max_batch)
    if staging.cuda_graphs:
        return replace(placement, options=placement.options | {"enable_cuda_graph": "1"})
    return placement


def stage_of(
    placement: Placement,
    staging: Staging,
    signature: Signature,
    *,
    first: ort.InferenceSession,
    another: Callable[[], ort.InferenceSession],
) -> Stage | None:
    """The stage in front of the session; None where batches need none.

    Args:
        placement: where the sessions run.
        staging: what is wanted.
        signature: of the graph.
        first: its session.
        another: opens one more like it.
    """
    if not staging.applies(placement):
        return None
    # A CUDA session has one stream: on a GPU each concurrent run has a session of its own.
    shared = placement.provider == CPU
    sessions = [first, *(first if shared else another() for _ in range(staging.instances - 1))]
    with GATE.shared():
        memories = [_memory(placement) for _ in sessions]
    graphs = staging.cuda_graphs
    return Stage(sessions, memories, signature, buckets=staging.sizes, graphs=graphs)


def signature_of(spec: pb.ModelSpec, file: str, size: Size | None = None) -> Signature:
    """Names, row shapes and dtypes of what a graph takes and gives at an image size, None for the native one.

    Raises:
        InvalidArgumentError: the model does not take this size.
    """
    sized = dynamic.at(spec, size)
    graph = next(graph for graph in sized.graphs if graph.file == file)
    outputs = [item for item in sized.outputs if item.name in graph.outputs]
    given = tuple(_slot(item.name, item.dtype, item.axes) for item in outputs)
    return Signature(_slot(graph.input.name, graph.input.dtype, graph.input.axes), given)


def _slot(name: str, dtype: int, axes: Sequence[pb.Axis]) -> Slot:
    element = _BFLOAT16 if dtype == tensor_pb2.DATA_TYPE_BFLOAT16 else numpy_dtype(dtype)
    return Slot(name, tuple(axis.size for axis in axes[1:]), numpy_dtype(dtype), element)


def _memory(placement: Placement) -> Memory:
    return HostMemory() if placement.provider == CPU else CudaMemory(context(placement.index))
