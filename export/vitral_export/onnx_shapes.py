"""The extents of every tensor of an ONNX graph, inferred anew: what a file says of them proves nothing."""

from __future__ import annotations

import onnx

from vitral_export.operations import BATCHES, Shape, extent_of


def shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Extents by tensor name, of those for which they can be told.

    They are inferred for two sizes of the batch: its symbol gets lost on the way, numbers do not.

    Raises:
        ValueError: the nodes contradict each other, or an extent is no multiple of the batch.
    """
    bare = _bare(model)
    first, second = (_inferred(bare, batch) for batch in BATCHES)
    found: dict[str, Shape] = {}
    for name in first.keys() & second.keys():
        try:
            found[name] = tuple(extent_of(*pair) for pair in zip(first[name], second[name], strict=True))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes, without what the file says about their results, and without the weights, which are large."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = bare.graph
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    for output in model.graph.output:
        elem_type = output.type.tensor_type.elem_type
        graph.output.append(onnx.helper.make_tensor_value_info(output.name, elem_type, None))
    for item in model.graph.initializer:
        integers = item.data_type == onnx.TensorProto.INT64  # all that shapes are made of
        alone = onnx.TensorProto(name=item.name, data_type=item.data_type, dims=item.dims)
        graph.initializer.append(item if integers else alone)
    return bare


def _inferred(bare: onnx.ModelProto, batch: int) -> dict[str, tuple[int, ...]]:
    """Extents where the batch is of this size."""
    sized = onnx.ModelProto()
    sized.CopyFrom(bare)
    for item in sized.graph.input:
        for axis, dim in enumerate(item.type.tensor_type.shape.dim):
            if axis == 0 and dim.HasField("dim_param"):
                dim.dim_value = batch
    try:
        graph = onnx.shape_inference.infer_shapes(sized, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ValueError(f"shapes cannot be told: {' '.join(str(error).split())[:300]}") from error
    found: dict[str, tuple[int, ...]] = {}
    for info in (*graph.output, *graph.value_info, *graph.input):
        tensor = info.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            found[info.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return found


def elem_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types by tensor name, as numbers of onnx's TensorProto, of those for which they can be told."""
    graph = onnx.shape_inference.infer_shapes(_bare(model)).graph
    types = {item.name: item.data_type for item in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        types[info.name] = info.type.tensor_type.elem_type
    return types
