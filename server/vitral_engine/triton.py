"""config.pbtxt: written for Triton, read by vitral.

The schema is Triton's own `ModelConfig` message from `tritonclient`. vitral takes the versions to serve, the
batch size, the instance count and the queue limit from it, checks everything that the manifest says too, and
names the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from vitral import spec as specs
from vitral.errors import ArtifactError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2

log = logging.getLogger(__name__)

CONFIG = "config.pbtxt"
"""File of the model folder."""

MAX_BATCH_SIZE = 32
"""Largest batch of a fresh export."""

_TYPES: dict[int, str] = {
    tensor_pb2.DATA_TYPE_FLOAT32: "TYPE_FP32",
    tensor_pb2.DATA_TYPE_FLOAT16: "TYPE_FP16",
    tensor_pb2.DATA_TYPE_BFLOAT16: "TYPE_BF16",
    tensor_pb2.DATA_TYPE_UINT8: "TYPE_UINT8",
    tensor_pb2.DATA_TYPE_INT64: "TYPE_INT64",
}
_USED = {
    "name",
    "backend",
    "max_batch_size",
    "input",
    "output",
    "default_model_filename",
    "version_policy",
}
_USED_NESTED = {"instance_group.count", "dynamic_batching.default_queue_policy.max_queue_size"}


@dataclass(frozen=True)
class Limits:
    """What vitral takes from config.pbtxt.

    Attributes:
        max_batch_size: largest batch of one run.
        instances: concurrent runs; 0 where the file does not say.
        max_queue: most images waiting for this model; 0 where the file sets none.
        ignored: fields that are set and that vitral does not use.
    """

    max_batch_size: int = MAX_BATCH_SIZE
    instances: int = 0
    max_queue: int = 0
    ignored: tuple[str, ...] = ()


def config_text(spec: pb.ModelSpec, *, max_batch_size: int = MAX_BATCH_SIZE) -> str:
    """config.pbtxt for the plain graph of this spec."""
    return str(text_format.MessageToString(fresh(spec, max_batch_size=max_batch_size)))


def fresh(spec: pb.ModelSpec, *, max_batch_size: int = MAX_BATCH_SIZE) -> Any:
    """The same as a `ModelConfig`."""
    graph = specs.plain_graph(spec)
    config = _message()
    config.name, config.backend, config.max_batch_size = spec.name, "onnxruntime", max_batch_size
    config.default_model_filename = graph.file
    _tensor(config.input.add(), graph.input.name, graph.input.dtype, graph.input.axes)
    for name in graph.outputs:
        item = specs.output(spec, name)
        _tensor(config.output.add(), name, item.dtype, item.axes)
    config.dynamic_batching.SetInParent()
    return config


def limits(model_folder: Path, spec: pb.ModelSpec) -> Limits:
    """Reads config.pbtxt and holds it against the manifest; its absence means the defaults.

    Raises:
        ArtifactError: it cannot be read, or names, types or dims contradict the manifest.
    """
    if not (model_folder / CONFIG).exists():
        return Limits()
    config = read(model_folder, spec)
    _check(config, fresh(spec))
    if config.max_batch_size < 1:
        raise ArtifactError(
            f"{spec.name}/{CONFIG}: max_batch_size {config.max_batch_size}; at least 1 is needed"
        )
    return Limits(
        max_batch_size=config.max_batch_size,
        instances=sum(group.count or 1 for group in config.instance_group),
        max_queue=config.dynamic_batching.default_queue_policy.max_queue_size,
        ignored=tuple(_ignored(config, "")),
    )


def read(model_folder: Path, spec: pb.ModelSpec) -> Any:
    """The `ModelConfig` in config.pbtxt, or in its absence the one a fresh export has.

    Raises:
        ArtifactError: it cannot be read.
    """
    return _parsed(model_folder) if (model_folder / CONFIG).exists() else fresh(spec)


def wanted(model_folder: Path, there: Sequence[int]) -> tuple[list[int], int]:
    """The versions that config.pbtxt asks for, newest first, and how many of them are to be served.

    Without a word it is the newest one; an older one stands in where that cannot be opened.

    Args:
        model_folder: of the model.
        there: versions that are there, oldest first.

    Raises:
        ArtifactError: config.pbtxt cannot be read, or none of the versions that it names is there.
    """
    newest = sorted(there, reverse=True)
    if not (model_folder / CONFIG).exists():
        return newest, 1
    policy = _parsed(model_folder).version_policy
    chosen = policy.WhichOneof("policy_choice")
    if chosen == "all":
        return newest, len(newest)
    if chosen != "specific":
        return newest, max(policy.latest.num_versions, 1)
    found = [version for version in newest if version in policy.specific.versions]
    if missing := sorted(set(policy.specific.versions).difference(newest)):
        told = f"version_policy names version {missing[0]}, there are {', '.join(map(str, there))}"
        if not found:
            raise ArtifactError(f"{model_folder.name}/{CONFIG}: {told}")
        log.warning("config.pbtxt: %s", told, extra={"model": model_folder.name})
    return found, len(found)


def _parsed(model_folder: Path) -> Any:
    try:
        text = (model_folder / CONFIG).read_text(encoding="utf-8")
        return text_format.Parse(text, _message())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{model_folder.name}/{CONFIG} cannot be read: {error}") from None


def _check(config: Any, expected: Any) -> None:
    if config.name and config.name != expected.name:
        raise ArtifactError(f"{CONFIG} names model {config.name}, its manifest says {expected.name}")
    for kind in ("input", "output"):
        said, true = _described(getattr(config, kind)), _described(getattr(expected, kind))
        if said and said != true:
            raise ArtifactError(f"{expected.name}/{CONFIG} {kind}s are {said}, its manifest says {true}")


def _described(tensors: Sequence[Any]) -> list[str]:
    return sorted(f"{item.name} {_type_name(item.data_type)} {list(item.dims)}" for item in tensors)


def _ignored(message: Any, prefix: str) -> list[str]:
    """Dotted names of the set fields that neither vitral nor the manifest check reads."""
    found = []
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        if name in _USED or name in _USED_NESTED:
            continue
        parts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        inside = [key for part in parts if hasattr(part, "ListFields") for key in _ignored(part, f"{name}.")]
        leads = any(used.startswith(f"{name}.") for used in _USED_NESTED)
        found += inside if inside or leads else [name]
    return sorted(set(found))


def _tensor(item: Any, name: str, dtype: int, axes: Sequence[pb.Axis]) -> None:
    item.name, item.data_type = name, _types().Value(_TYPES[dtype])
    item.dims.extend(axis.size or -1 for axis in axes[1:])


def _message() -> Any:
    from tritonclient.grpc import model_config_pb2  # costs an import of Triton's whole client

    return model_config_pb2.ModelConfig()


def _types() -> Any:
    from tritonclient.grpc import model_config_pb2

    return model_config_pb2.DataType


def _type_name(value: int) -> str:
    return str(_types().Name(value))
