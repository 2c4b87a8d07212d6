"""From the bytes of a ModelInferRequest to a request. Tensor bytes stay views of the message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from vitral import framing
from vitral.errors import InvalidArgumentError, UnsupportedError

RAW_INPUT_FIELD = 7
"""Field of ModelInferRequest that holds raw tensor bytes."""

_MAX_FIELDS = 1024
_RESERVED, _FINAL = "triton_", "triton_enable_empty_final_response"
_REGION, _OFFSET, _SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"
_CLASSES = "classification"
_KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "timeout": ("int64_param",),
        "priority": ("int64_param", "uint64_param"),
        "sequence_id": ("int64_param", "string_param"),
        "sequence_start": ("bool_param",),
        "sequence_end": ("bool_param",),
        _FINAL: ("bool_param",),
    }
)
_OTHERS = ("int64_param", "bool_param", "string_param", "double_param")


@dataclass(frozen=True)
class Range:
    """A range of a registered region, as the caller names it."""

    region: str
    offset: int
    size: int


@dataclass(frozen=True)
class Request:
    """A request that could be read.

    Attributes:
        message: the ModelInferRequest without its raw contents.
        raw: the raw contents in order.
        size: bytes of the whole message.
    """

    message: Any
    raw: Sequence[memoryview]
    size: int

    @property
    def prefix(self) -> str:
        """What stands in front of an error about the request's tensors."""
        return f"[request id: {self.message.id or '<id_unknown>'}] "


def read(data: bytes) -> Request:
    """Reads a request. What it costs is bounded by the message's size.

    Raises:
        InvalidArgumentError: it is malformed.
    """
    header, raw = framing.split(data, max_fields=_MAX_FIELDS, field=RAW_INPUT_FIELD)
    try:
        return Request(pb.ModelInferRequest.FromString(header), raw, len(data))
    except DecodeError:
        raise InvalidArgumentError(f"malformed ModelInferRequest of {len(data)} bytes") from None


def timeout_of(request: Request) -> float:
    """Seconds that the request's parameters grant; 0: they say nothing. All but that one is ignored.

    One reply answers a request: it is the final one, whether one is asked for or not.

    Raises:
        InvalidArgumentError: a parameter is of another type, or of a reserved name.
    """
    parameters, seconds = request.message.parameters, 0.0
    for name in parameters:
        if name.startswith(_RESERVED) and name != _FINAL:
            told = f"parameter keys starting with '{_RESERVED}' are reserved for Triton usage"
            raise InvalidArgumentError(
                f"{told}. Only the following keys starting with '{_RESERVED}' are allowed: {_FINAL}"
            )
        kind = parameters[name].WhichOneof("parameter_choice")
        if kind not in _KINDS.get(name, _OTHERS):
            known = " or ".join(_KINDS.get(name, ())) or "int64_param, bool_param, or string_param"
            raise InvalidArgumentError(f"invalid value type for '{name}' parameter, expected {known}.")
        if name == "timeout":
            seconds = max(0.0, parameters[name].int64_param / 1e6)
    return seconds


def range_of(tensor: Any) -> Range | None:
    """The shared memory that an input or output names; None where it names none.

    Raises:
        InvalidArgumentError: a parameter is missing or of another type.
    """
    parameters, what = tensor.parameters, f"parameter for tensor '{tensor.name}'"
    if _REGION not in parameters:
        for name in (_OFFSET, _SIZE):
            if name in parameters:
                raise InvalidArgumentError(f"'{name}' can not be specified without '{_REGION}' {what}")
        return None
    region = _value(parameters, _REGION, "string_param", what)
    offset = _value(parameters, _OFFSET, "int64_param", what) if _OFFSET in parameters else 0
    if _SIZE not in parameters:
        raise InvalidArgumentError(f"'{_SIZE}' must be specified along with '{_REGION}' {what}")
    return Range(region, offset, _value(parameters, _SIZE, "int64_param", what))


def refuse_classes(tensor: Any) -> None:
    """Refuses an output whose values are to be replaced by class labels.

    Raises:
        UnsupportedError: embeddings have no classes.
    """
    if _CLASSES in tensor.parameters:
        raise UnsupportedError(f"classification is not served; output '{tensor.name}' has no classes")


def _value(parameters: Mapping[str, Any], name: str, kind: str, what: str) -> Any:
    parameter = parameters[name]
    if parameter.WhichOneof("parameter_choice") != kind:
        raise InvalidArgumentError(f"invalid value type for '{name}' {what}, expected {kind}.")
    return getattr(parameter, kind)
