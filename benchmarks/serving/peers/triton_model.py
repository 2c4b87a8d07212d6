"""model.py of Triton's Python backend: Pillow, NumPy and onnxruntime in one stub process an instance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import picture  # put beside this file
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray


class TritonPythonModel:
    """One instance. Triton calls it with the requests of one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the graph that the settings name."""
        told = json.loads(json.loads(args["model_config"])["parameters"]["settings"]["string_value"])
        version = Path(told["version"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = told["threads"]
        self.session = onnxruntime.InferenceSession(
            str(version / told["graph"]), options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0]
        self.output, self.cls, self.dtype = told["output"], told["view"] == "cls", np.dtype(told["dtype"])
        self.preprocessor = picture.Preprocessor.read(version)

    def execute(self, requests: list[Any]) -> list[Any]:
        """A reply for each request."""
        images = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        rows = self._run(np.concatenate(images) if len(images) > 1 else images[0])
        replies, start = [], 0
        for image in images:
            tensor = pb_utils.Tensor("output", rows[start : start + len(image)])
            replies.append(pb_utils.InferenceResponse([tensor]))
            start += len(image)
        return replies

    def _run(self, images: NDArray[Any]) -> NDArray[Any]:
        """uint8 (B, h, w, 3) or image files (B, 1) to the output, the batch in front."""
        if images.dtype == np.object_:
            images = np.stack([self.preprocessor.decode(data) for data in images[:, 0]])
        if self.input.type == "tensor(float)":
            images = self.preprocessor.normalise(images)
        [rows] = self.session.run([self.output], {self.input.name: images})
        array: NDArray[Any] = (rows[:, 0] if self.cls else rows).astype(self.dtype, copy=False)
        return array
