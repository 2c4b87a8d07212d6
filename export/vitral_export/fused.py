"""Operators that onnxruntime makes of several as it opens a graph, counted."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort

from vitral.errors import ProofError
from vitral_engine.device import CPU
from vitral_engine.runtime import cpu_count

log = logging.getLogger(__name__)

FUSED = frozenset(
    {
        "Attention",
        "BiasGelu",
        "BiasSoftmax",
        "DynamicQuantizeMatMul",
        "EmbedLayerNormalization",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "FusedMatMulActivation",
        "Gelu",
        "GroupQueryAttention",
        "MatMulIntegerToFloat",
        "MultiHeadAttention",
        "QAttention",
        "QuickGelu",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
"""Operators of onnxruntime's own domain that stand for several of ONNX's."""

_DOMAIN = "com.microsoft"
_OPTIMISED = "optimised.onnx"
_EXTERNAL = {  # weights beside the graph: together they may be more than one file of protobuf can hold
    "session.optimized_model_external_initializers_file_name": "optimised.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}


def counted(file: Path, model: onnx.ModelProto) -> dict[str, int]:
    """Fused operators of a written graph on the CPU provider at level all, with their number.

    A graph with attention and none of them is warned of: it runs slower than it could.

    Raises:
        ProofError: onnxruntime cannot open the graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / _OPTIMISED
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.optimized_model_filepath = str(optimised)
        settings.intra_op_num_threads = cpu_count()
        settings.log_severity_level = 4  # it warns that the optimised graph is for this machine
        for key, value in _EXTERNAL.items():
            settings.add_session_config_entry(key, value)
        try:
            ort.InferenceSession(str(file), settings, providers=[CPU], enable_fallback=0)
        except Exception as error:  # onnxruntime raises classes of its own for every fault
            said = " ".join(str(error).split())[:300]
            raise ProofError(f"numbers: {file.name} does not open on {CPU}, level all: {said}") from error
        nodes = onnx.load(optimised, load_external_data=False).graph.node
    found = Counter(node.op_type for node in nodes if node.domain == _DOMAIN and node.op_type in FUSED)
    if not found and any(node.op_type in ("Attention", "Softmax") for node in model.graph.node):
        log.warning("%s: onnxruntime fuses no operators of the encoder, which may be slow", file.name)
    return dict(sorted(found.items()))
