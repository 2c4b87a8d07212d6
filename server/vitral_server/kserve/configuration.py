"""Triton's `ModelConfig` of a model: its config.pbtxt, with what Triton fills in by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from vitral.spec import is_unproven
from vitral_engine import triton
from vitral_engine.engine import Model
from vitral_engine.placement import CPU
from vitral_server.kserve.datatype import BYTES, TensorType

PLATFORM = "onnxruntime_onnx"
"""What Triton calls its onnxruntime backend's models."""

IMAGE_PLATFORM = "vitral"
"""The same for models that take image files: Triton has no such backend."""

_CPU_INSTANCES = 2
"""Instances of the onnxruntime backend on CPUs where nobody says how many."""


def of_model(model: Model) -> Any:
    """The config of a model as Triton serves its folder."""
    spec, folder = model.spec, model.artifact.model_folder
    config, full = triton.read(folder, spec), triton.fresh(spec)
    config.name, config.platform = spec.name, PLATFORM
    for name in ("backend", "default_model_filename"):
        if not getattr(config, name):
            setattr(config, name, getattr(full, name))
    for name in ("input", "output"):
        if not getattr(config, name):
            getattr(config, name).extend(getattr(full, name))
    if not config.HasField("version_policy"):
        config.version_policy.latest.num_versions = 1
    _instances(config, model)
    if is_unproven(spec):
        config.parameters["vitral_proof"].string_value = "unproven"
    for name in ("input_pinned_memory", "output_pinned_memory"):
        if not config.optimization.HasField(name):
            getattr(config.optimization, name).enable = True
    if config.HasField("dynamic_batching") and not config.dynamic_batching.preferred_batch_size:
        config.dynamic_batching.preferred_batch_size.append(config.max_batch_size)
    return config


def of_images(name: str, taken: TensorType, outputs: Iterable[TensorType]) -> Any:
    """The config of the model that takes image files. Its first axis is one of its own, not a batch's."""
    config = pb.ModelConfig(name=name, platform=IMAGE_PLATFORM, backend=IMAGE_PLATFORM)
    config.version_policy.latest.num_versions = 1
    config.input.add(name=taken.name, data_type=_type(taken), dims=taken.dims)
    for item in outputs:
        config.output.add(name=item.name, data_type=_type(item), dims=(-1, *item.dims))
    return config


def _type(item: TensorType) -> int:
    return int(pb.DataType.Value("TYPE_STRING" if item.datatype == BYTES else f"TYPE_{item.datatype}"))


def _instances(config: Any, model: Model) -> None:
    if not config.instance_group:
        config.instance_group.add(name=config.name)
    on_cpu = model.placement.provider == CPU
    for number, group in enumerate(config.instance_group):
        group.name = group.name or f"{config.name}_{number}"
        group.count = group.count or (_CPU_INSTANCES if on_cpu else 1)
        if group.kind == pb.ModelInstanceGroup.KIND_AUTO:
            group.kind = pb.ModelInstanceGroup.KIND_CPU if on_cpu else pb.ModelInstanceGroup.KIND_GPU
        if group.kind == pb.ModelInstanceGroup.KIND_GPU and not group.gpus:
            group.gpus.append(model.placement.index)
