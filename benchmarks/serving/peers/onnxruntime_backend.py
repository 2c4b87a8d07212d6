"""model.py of a backend named onnxruntime, for a Triton that has only its Python backend.

It serves a repository of ONNX models unchanged; what the core checks, completes and answers stays the core's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance. Triton calls it with the requests of one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the version's graph."""
        graph = json.loads(args["model_config"])["default_model_filename"] or "model.onnx"
        path = Path(args["model_repository"]) / args["model_version"] / graph
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.inputs = [node.name for node in self.session.get_inputs()]
        # Triton's own onnxruntime backend keeps them in a map.
        self.outputs = sorted(node.name for node in self.session.get_outputs())

    def execute(self, requests: list[Any]) -> list[Any]:
        """A reply for each request, which runs by itself; outputs nobody asked for are dropped behind it."""
        return [self._reply(request) for request in requests]

    def _reply(self, request: Any) -> Any:
        feed = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        arrays = self.session.run(self.outputs, feed)
        return pb_utils.InferenceResponse(list(map(pb_utils.Tensor, self.outputs, arrays)))
