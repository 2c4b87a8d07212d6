"""From the bytes of a ModelInferRequest to a request. Tensor bytes stay views of the message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from vitral import framing
from vitral.errors import InvalidArgumentError, UnsupportedError

RAW_INPUT_FIELD = 7
"""Field of ModelInferRequest that holds raw tensor bytes."""

_MAX_FIELDS = 1024
_FINAL = "triton_enable_empty_final_response"
_RESERVED = "triton_"
_REGION, _OFFSET, _SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"


@dataclass(frozen=True)
class Range:
    """A range of a registered region, as the caller names it."""

    region: str
    offset: int
    size: int


@dataclass(frozen=True)
class Request:
    """A request whose form is right.

    Attributes:
        message: the ModelInferRequest without its raw contents.
        raw: the raw contents in order.
        size: bytes of the whole message.
        timeout: seconds that its parameter grants; 0: none.
    """

    message: Any
    raw: Sequence[memoryview]
    size: int
    timeout: float

    @property
    def prefix(self) -> str:
        """What stands in front of an error about the request's tensors."""
        return f"[request id: {self.message.id or '<id_unknown>'}] "


def read(data: bytes) -> Request:
    """Reads a request. What it costs is bounded by the message's size.

    Raises:
        InvalidArgumentError: it is malformed, or a parameter is of another type.
    """
    header, raw = framing.split(data, max_fields=_MAX_FIELDS, field=RAW_INPUT_FIELD)
    try:
        message = pb.ModelInferRequest.FromString(header)
    except DecodeError:
        raise InvalidArgumentError(f"malformed ModelInferRequest of {len(data)} bytes") from None
    return Request(message, raw, len(data), _timeout(message.parameters))


def range_of(tensor: Any) -> Range | None:
    """The shared memory that an input or output names; None where it names none.

    Raises:
        InvalidArgumentError: a parameter is missing or of another type.
    """
    parameters, what = tensor.parameters, f" for tensor '{tensor.name}'"
    if _REGION not in parameters:
        return None
    region = _value(parameters, _REGION, "string_param", what)
    offset = _value(parameters, _OFFSET, "int64_param", what) if _OFFSET in parameters else 0
    if _SIZE not in parameters:
        told = f"'{_SIZE}' must be specified along with '{_REGION}' parameter"
        raise InvalidArgumentError(told + what)
    return Range(region, offset, _value(parameters, _SIZE, "int64_param", what))


def refuse_classification(tensor: Any) -> None:
    """Refuses an output whose values are to be replaced by class labels.

    Raises:
        UnsupportedError: embeddings have no classes.
    """
    if "classification" in tensor.parameters:
        raise UnsupportedError(f"classification is not served; output '{tensor.name}' has no classes")


def _timeout(parameters: Mapping[str, Any]) -> float:
    if not parameters:
        return 0.0
    for name in parameters:
        if name.startswith(_RESERVED) and name != _FINAL:
            told = f"parameter keys starting with '{_RESERVED}' are reserved for Triton usage"
            raise InvalidArgumentError(
                f"{told}. Only the following keys starting with '{_RESERVED}' are allowed: {_FINAL}"
            )
    if _FINAL in parameters:
        _value(parameters, _FINAL, "bool_param", "")  # one reply a request: it is the final one anyway
    if "timeout" not in parameters:
        return 0.0
    microseconds: int = _value(parameters, "timeout", "int64_param", "")
    return max(0.0, microseconds / 1e6)


def _value(parameters: Mapping[str, Any], name: str, kind: str, what: str) -> Any:
    parameter = parameters[name]
    if parameter.WhichOneof("parameter_choice") != kind:
        raise InvalidArgumentError(f"invalid value type for '{name}' parameter{what}, expected {kind}.")
    return getattr(parameter, kind)
