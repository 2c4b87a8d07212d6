"""Models of timm with the weights they start from, or those of a folder in the layout of its `local-dir:`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral_export import checkpoint, hub

_CLASSES = ("VisionTransformer", "VisionTransformerDistilled")
_WEIGHTS = "model.safetensors"
_HEADS = ("head.", "head_dist.")  # classifiers, which no output comes from


def random(name: str, architecture: str, *, img_size: int | None) -> Any:
    """The model as timm initialises it, without its classifier, from torch's global generator.

    Args:
        name: the source, for messages.
        architecture: NAME or NAME.TAG of timm.
        img_size: side of its images in pixels; None for the architecture's own.

    Raises:
        InvalidArgumentError: timm has no such model.
        UnsupportedError: timm is not installed, or the model is of another family.
    """
    return _made(name, architecture, img_size=img_size)


def find(name: str, where: Path) -> Path:
    """The file of weights in a folder, or the file itself.

    Raises:
        InvalidArgumentError: there is none.
    """
    file = where / _WEIGHTS if where.is_dir() else where
    if not file.is_file():
        raise InvalidArgumentError(f"{name}: there is no file {file}")
    return file


def read(name: str, architecture: str, file: Path) -> Any:
    """The model with the weights of a file, every one of them but the classifiers'.

    Raises:
        InvalidArgumentError: the file cannot be read, is of another architecture, or not the model's state.
        UnsupportedError: see `random`.
    """
    model = _made(name, _known(name, architecture, file))
    unused = _HEADS if model.attn_pool is not None else (*_HEADS, "attn_pool.")
    state = checkpoint.read(file)
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(unused)}
    checkpoint.fill(model, kept, where=name)
    return model


def _known(name: str, architecture: str, file: Path) -> str:
    """What timm makes the model from: the folder whose config.json is of this architecture, or the name."""
    config = file.parent / hub.CONFIG
    if file.name != _WEIGHTS or not config.is_file():
        return architecture
    try:
        its = str(json.loads(config.read_bytes())["architecture"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidArgumentError(f"{name}: {config} names no architecture: {error}") from None
    if its != architecture.partition(".")[0]:
        raise InvalidArgumentError(f"{name}: {config} is of the architecture {its}")
    return f"local-dir:{file.parent}"


def _made(name: str, what: str, **options: Any) -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:  # timm needs torchvision
        raise UnsupportedError(f"{name}: {error.name} is not installed: add vitral[timm]") from None
    with hub.told(name):
        model = timm.create_model(what, pretrained=False, num_classes=0, **options)
    kind, stem = type(model).__name__, type(getattr(model, "patch_embed", None)).__name__
    if kind not in _CLASSES or stem != "PatchEmbed":
        known = f"{' and '.join(_CLASSES)} with PatchEmbed"
        raise UnsupportedError(f"{name} is a {kind} with {stem}; known are {known}")
    return model.eval()
