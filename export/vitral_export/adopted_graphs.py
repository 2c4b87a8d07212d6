"""The graphs of an adopted file: its own as float32, and the uint8 one where normalisation folds in."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from safetensors.numpy import save

from vitral import spec as specs
from vitral.errors import ProofError, UnsupportedError
from vitral.limits import SCHEMA
from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import sha256_file
from vitral_export import fold, onnx_graph, onnx_metadata
from vitral_export.adopted import Adopted
from vitral_export.adopted_weights import kinds
from vitral_export.operations import INPUT, Operand, Operation, Program, Weight

log = logging.getLogger(__name__)

TOLERANCES = (
    f"with a PyTorch reference: {onnx_metadata.TOLERANCES}; without one: against its own run at adoption, "
    "relative L2 at most 3 x what its settings differ by + 2^-17, max abs at most 3 x that + 2^-13 x rms"
)
"""The rules of the budgets of adopted models: a file is the same with and without a reference."""


def write(folder: Path, known: Adopted, *, name: str, folding: bool = True) -> pb.ModelSpec:
    """Writes graphs, weights and embedding tensors: everything that makes the identity.

    onnx's checker is not asked: onnxruntime, which has run the file, writes operators that it does not know.

    Returns:
        The spec with its fingerprint, not yet proven.
    """
    outputs = [item.name for item in known.outputs]
    listed = [pb.Graph(file=onnx_graph.FLOAT_FILE, input=known.input, outputs=outputs)]
    graphs = {onnx_graph.FLOAT_FILE: onnx.ModelProto()}
    graphs[onnx_graph.FLOAT_FILE].CopyFrom(known.model)
    if known.preprocessing is not None and folding:
        try:
            graphs[fold.UINT8_FILE] = folded(known.model, known.preprocessing)
        except (UnsupportedError, ProofError) as error:
            log.info("%s has no uint8 graph: %s", known.file.reference, error)
        else:
            pixels = fold.pixels_input(known.preprocessing)
            listed.insert(0, pb.Graph(file=fold.UINT8_FILE, input=pixels, outputs=outputs))
    for graph in listed:
        onnx_metadata.write(
            graphs[graph.file], graph, known.source, known.preprocessing, tolerances=TOLERANCES
        )
    onnx_graph.write(folder, graphs)
    if known.embedding:
        tensors = {key: np.ascontiguousarray(array) for key, array in sorted(known.embedding.items())}
        (folder / specs.EMBEDDING).write_bytes(save(tensors))
    spec = pb.ModelSpec(
        schema=SCHEMA,
        name=name,
        source=known.source,
        architecture=known.architecture,
        precision="+".join(sorted(kinds(known.model))) or "float32",
        opset=known.file.opset,
        graphs=listed,
        preprocessing=known.preprocessing,
        outputs=known.outputs,
        default_outputs=[known.outputs[0].name],
    )
    spec.fingerprint = specs.identity(spec, {path.name: sha256_file(path) for path in folder.iterdir()})
    return spec


def folded(model: onnx.ModelProto, preprocessing: pb.Preprocessing) -> onnx.ModelProto:
    """The uint8 graph of a stranger's float32 graph.

    Where the whole is not readable, its beginning may be: a plain convolution that takes the image.

    Raises:
        UnsupportedError: what first computes with the image is nothing that can be folded into.
        ProofError: the graph has a form of which it cannot be told what it computes.
    """
    taken = model.graph.input[0].name
    try:
        return fold.fold(model, taken, preprocessing)
    except (ProofError, UnsupportedError) as error:
        beginning = _projection(model.graph, taken)
        if beginning is None:
            raise
        log.debug("%s", error)
        return fold.fold_into(model, beginning, taken, preprocessing)


def _projection(graph: onnx.GraphProto, taken: str) -> Program | None:
    """The convolution that alone computes with the image; others may look at its extents."""
    users = [node for node in graph.node if taken in node.input and node.op_type != "Shape"]
    if len(users) != 1 or users[0].op_type != "Conv" or users[0].domain:
        return None
    (node,) = users
    held = {item.name: item for item in graph.initializer}
    names = [name for name in node.input[1:] if name]
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    strange = given.get("group", 1) != 1 or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    if strange or not all(name in held for name in names):
        return None
    weights: list[Operand] = [Weight(name, numpy_helper.to_array(held[name])) for name in names]
    step = Operation("Conv", {"pads": [0], **given}, (INPUT, *weights), node.name, (None,))
    return Program((step,), ("#0",))
