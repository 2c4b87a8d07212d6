"""The small models that faults are planted into, and their sound exports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.faults import checkpoints, sizes
from vitral.v1 import model_pb2 as pb
from vitral_export import artifact
from vitral_export.dynamic_size import widened
from vitral_export.loaded import Loaded, Options
from vitral_export.onnx_graph import DEFAULT_OPSET
from vitral_export.sources import load
from vitral_export.wrap import Inference

_SMALL = Options(img_size=32, patch_size=8, embed_dim=16)


@dataclass(frozen=True)
class Sound:
    """The written graphs of a model, not yet verified.

    Attributes:
        folder: where they are.
        spec: what they say they are.
        wrapped: the module they were made of.
    """

    folder: Path
    spec: pb.ModelSpec
    wrapped: Inference


def export(model: str, folder: Path) -> Sound:
    """Writes the graphs of one of `MODELS` or of `SIZED` into a new folder."""
    folder.mkdir(parents=True)
    loaded = {**MODELS, **SIZED}[model](folder.with_name(f"{folder.name}-checkpoint"))
    wrapped = Inference(loaded)
    spec = artifact.write_graphs(folder, wrapped, loaded, name=model, opset=DEFAULT_OPSET)
    return Sound(folder, spec, wrapped)


def _preset(name: str) -> Callable[[Path], Loaded]:
    return lambda _: load(name, _SMALL)


def _saved(checkpoint: Callable[[Path], Path], *outputs: str) -> Callable[[Path], Loaded]:
    return lambda folder: load(f"hf:{checkpoint(folder)}", Options(outputs=outputs))


MODELS: Mapping[str, Callable[[Path], Loaded]] = MappingProxyType(
    {
        "patch-embedding": _preset("patch-embedding"),
        "manual-patch-embedding": _preset("manual-patch-embedding"),
        "vit-embedding": _preset("vit-embedding"),
        "patch-embedding-2d-position": _preset("patch-embedding-2d-position"),
        "hf-vit": _saved(checkpoints.vit),
        "hf-deit": _saved(checkpoints.deit),
        "hf-beit": _saved(checkpoints.beit),
        "hf-dinov3": _saved(checkpoints.dinov3, "last_hidden_state", "hidden_states.1"),
    }
)
"""Each by its name, from a folder where it may leave a checkpoint."""

SIZED: Mapping[str, Callable[[Path], Loaded]] = MappingProxyType(
    {sizes.MODEL: lambda folder: widened(_saved(checkpoints.small_vit)(folder))}
)
"""Those of dynamic height and width, likewise."""
