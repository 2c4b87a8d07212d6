"""Element types by the names of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vitral.v1 import tensor_pb2

BYTES = "BYTES"
"""Strings: in raw contents each has its length in front, 4 bytes, little endian."""

NAMES: Mapping[int, str] = MappingProxyType(
    {
        tensor_pb2.DATA_TYPE_FLOAT32: "FP32",
        tensor_pb2.DATA_TYPE_FLOAT16: "FP16",
        tensor_pb2.DATA_TYPE_BFLOAT16: "BF16",
        tensor_pb2.DATA_TYPE_UINT8: "UINT8",
        tensor_pb2.DATA_TYPE_INT8: "INT8",
        tensor_pb2.DATA_TYPE_UINT16: "UINT16",
        tensor_pb2.DATA_TYPE_INT64: "INT64",
    }
)
"""Wire type of a graph's tensor to its name."""

TYPED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bool_contents": ("BOOL",),
        "int_contents": ("INT32", "INT16", "INT8"),
        "int64_contents": ("INT64",),
        "uint_contents": ("UINT32", "UINT16", "UINT8"),
        "uint64_contents": ("UINT64",),
        "fp32_contents": ("FP32",),
        "fp64_contents": ("FP64",),
        "bytes_contents": (BYTES,),
    }
)
"""Field of typed contents to the types it can hold, the widest first. FP16 and BF16 exist only raw."""

_KNOWN = frozenset(name for names in TYPED.values() for name in names) | {"FP16", "BF16"}


@dataclass(frozen=True)
class TensorType:
    """An input or output of a served model.

    Attributes:
        name: of the tensor.
        datatype: by its protocol name.
        dims: one row, -1 for a dynamic extent.
        dtype: wire type of vitral; 0 for `BYTES`.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    dtype: int = 0


def known(datatype: str) -> str:
    """The name as errors say it: `<invalid>` for one that the protocol does not have."""
    return datatype if datatype in _KNOWN else "<invalid>"
