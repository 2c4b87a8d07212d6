"""Metadata, index and readiness in the protocol's messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from vitral import __version__
from vitral_server.kserve.catalogue import Catalogue, Entry, Face
from vitral_server.kserve.datatype import TensorType

EXTENSIONS = ("model_configuration", "system_shared_memory", "binary_tensor_data", "parameters", "statistics")
"""Of Triton's extensions those that are served."""


def server() -> Any:
    """Name, version and extensions of the server."""
    return pb.ServerMetadataResponse(name="vitral", version=__version__, extensions=EXTENSIONS)


def model(entry: Entry, face: Face, *, versions: Iterable[str]) -> Any:
    """Inputs and outputs of a model, the batch axis in front."""
    reply = pb.ModelMetadataResponse(name=entry.name, versions=versions, platform=face.config.platform)
    front = (-1,) if face.max_batch_size else ()
    _add(reply.inputs, face.input, (*front, *face.input.dims))
    for item in face.outputs.values():
        _add(reply.outputs, item, (-1, *item.dims))
    return reply


def index(catalogue: Catalogue, *, ready: bool) -> Any:
    """Every version of every model, or those that are ready."""
    reply = pb.RepositoryIndexResponse()
    for entry in catalogue:
        fault = entry.served.fault
        if not (ready and fault):
            state = "UNAVAILABLE" if fault else "READY"
            reply.models.add(name=entry.name, version=entry.version, state=state, reason=fault)
    return reply


def _add(tensors: Any, item: TensorType, shape: tuple[int, ...]) -> None:
    tensors.add(name=item.name, datatype=item.datatype, shape=shape)
