"""The graph whose encoder multiplies in int8.

Every product with a constant matrix but the first on its way from the input, which is the patch embedding's:
what it takes is quantised as it is run, to uint8 by the range of the whole batch; the matrix beforehand, to
int8 with a scale for each column.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from vitral_export import onnx_operations
from vitral_export.operations import Weight
from vitral_export.precision.editor import Editor
from vitral_export.precision.rounding import quantised

_FLOAT = onnx.TensorProto.FLOAT
_PRODUCTS = ("Conv", "Gemm", "MatMul")


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with quantised products; everything else is float32.

    Raises:
        ProofError: a matrix is not finite, or it cannot be told what the graph computes.
    """
    return _Int8(model).converted()


class _Int8:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._edit = Editor(model)
        self._weights: Mapping[str, Weight] = onnx_operations.constants(model)
        self._levels: dict[str, tuple[str, str, str]] = {}

    def converted(self) -> onnx.ModelProto:
        behind: set[str] = set()  # tensors behind a product with a weight
        for node in self._model.graph.node:
            deep = not behind.isdisjoint(node.input)
            weighted = node.op_type in _PRODUCTS and not self._weights.keys().isdisjoint(node.input[:2])
            if deep or weighted:
                behind.update(node.output)
            if deep and weighted and self._is_linear(node):
                self._quantise(node)
            else:
                self._edit.keep(node, takes=node.input, gives=node.output)
        return self._edit.finish()

    def _is_linear(self, node: onnx.NodeProto) -> bool:
        held = self._weights.get(node.input[1])
        return node.op_type in ("Gemm", "MatMul") and held is not None and held.array.ndim == 2

    def _quantise(self, node: onnx.NodeProto) -> None:
        rows, result, name = node.input[0], node.output[0], node.name
        taken, scale, zero = self._quantised(rows, name)
        matrix, columns = self._matrix(node)
        biased = node.op_type == "Gemm" and len(node.input) > 2
        product = f"{result}.product" if biased else result
        sums = self._edit.add(
            "MatMulInteger", [taken, matrix, zero], [f"{result}.sums"], f"{name}/MatMulInteger"
        )
        wide = self._edit.add("Cast", [sums], [f"{result}.float"], f"{name}/Cast", to=_FLOAT)
        both = self._edit.add("Mul", [scale, columns], [f"{result}.factor"], f"{name}/Factor")
        self._edit.add("Mul", [wide, both], [product], f"{name}/Mul")
        if biased:
            self._edit.add("Add", [product, node.input[2]], [result], f"{name}/Add")

    def _quantised(self, rows: str, name: str) -> tuple[str, str, str]:
        """Levels, scale and zero point of what a product takes, made once for all that take it."""
        if rows not in self._levels:
            gives = (f"{rows}.levels", f"{rows}.scale", f"{rows}.zero")
            self._edit.add("DynamicQuantizeLinear", [rows], gives, f"{name}/DynamicQuantizeLinear")
            self._levels[rows] = gives
        return self._levels[rows]

    def _matrix(self, node: onnx.NodeProto) -> tuple[str, str]:
        """Names of the levels (K, N) and the scales (N,) of the matrix that a node multiplies with."""
        held = self._weights[node.input[1]]
        turned = any(item.name == "transB" and item.i for item in node.attribute)
        name = f"{held.name}.transposed" if turned else held.name
        levels, scale = quantised(held.array.T if turned else held.array, name)
        return self._edit.constant(f"{name}.int8", levels), self._edit.constant(f"{name}.scale", scale)
