"""Modules of one's own: any `nn.Module` from images to tensors, handed over or made by a factory."""

from __future__ import annotations

import copy
import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral_export import preprocessing as contracts
from vitral_export.loaded import (
    PREFIXES,
    SIZES,
    Loaded,
    Options,
    axes,
    chosen,
    float_output,
    pixel_input,
    sizes_of,
)

PREFIX = "python:"
"""What the names of these sources begin with."""

SUMMARY = (
    "MODULE:FACTORY, a function without arguments that returns an nn.Module; the working folder is searched"
)
"""What such a source is, in one line."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_TRIED = 2  # images of the run that looks at the outputs


def make(name: str) -> nn.Module:
    """The module that `python:MODULE:FACTORY` makes.

    Raises:
        InvalidArgumentError: there is no such module or factory, or it fails, or makes something else.
    """
    where, _, factory = name.removeprefix(PREFIX).partition(":")
    if not where or not factory:
        raise InvalidArgumentError(f"{name} is not {PREFIX}MODULE:FACTORY")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(where), factory, None)
    except Exception as error:  # whatever the code at its top raises
        raise InvalidArgumentError(f"{name}: {where} cannot be imported: {error}") from error
    if not callable(found):
        raise InvalidArgumentError(f"{name}: {where} has no function {factory}")
    try:
        module = found()
    except Exception as error:
        said = str(error) or type(error).__name__
        raise InvalidArgumentError(f"{name}: {factory}() failed: {said}") from error
    if not isinstance(module, nn.Module):
        raise InvalidArgumentError(f"{name}: {factory}() gives a {type(module).__name__}, not an nn.Module")
    return module


def describe(module: nn.Module, source: pb.Source, options: Options) -> Loaded:
    """Everything about a module of images, found by running it.

    Sizes are those of the options, else the module's own attributes, else those of its first convolution.

    Raises:
        InvalidArgumentError: it does not take images of these sizes, or gives something else than tensors.
    """
    options.refuse(source.reference, ["embed_dim"])
    sizes = {name: _size(module, name, options) for name in ("img_size", "patch_size", "in_channels")}
    size, patch, channels = sizes["img_size"], sizes["patch_size"], sizes["in_channels"]
    if size % patch:
        raise InvalidArgumentError(f"img_size {size} is not a multiple of patch_size {patch}")
    found = _tried(module, (channels, size, size))
    count = (size // patch) ** 2
    outputs = [_output(name, tensor, count, options) for name, tensor in found.items()]
    known = chosen(outputs, options)
    return Loaded(
        module=module,
        compute=_compute,
        input=pixel_input(channels=channels, height=size, width=size),
        outputs=known,
        architecture=sizes_of(
            module, image=(size, size), patch=(patch, patch), channels=channels, width=known[0].axes[-1].size
        ),
        source=source,
        preprocessing=contracts.default(size) if channels == 3 else None,
        embedding=_projection(module, patch),
    )


def _compute(module: nn.Module, rows: Tensor) -> Mapping[str, Tensor]:
    given = module(rows)
    if isinstance(given, Tensor):
        return {"embeddings": given}
    if isinstance(given, Mapping):
        return {str(name): tensor for name, tensor in given.items() if tensor is not None}
    if isinstance(given, tuple | list):
        return {f"output_{index}": tensor for index, tensor in enumerate(given)}
    raise UnsupportedError(f"{type(module).__name__} gives a {type(given).__name__}, not tensors")


def _tried(module: nn.Module, shape: tuple[int, int, int]) -> Mapping[str, Tensor]:
    """What a copy of the module gives for two images, in eval mode."""
    rows = torch.zeros(_TRIED, *shape)
    with torch.inference_mode():
        try:
            found = _compute(copy.deepcopy(module).cpu().eval(), rows)
        except UnsupportedError:
            raise
        except Exception as error:  # whatever a stranger's forward raises
            said = " ".join(str(error).split()) or type(error).__name__
            what = f"images of {' x '.join(map(str, shape))}"
            raise InvalidArgumentError(
                f"{type(module).__name__} does not take {what}: {said[:300]}"
            ) from error
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32 or tensor.dim() < 2:
            said = (
                f"{tensor.dtype} {tuple(tensor.shape)}"
                if isinstance(tensor, Tensor)
                else type(tensor).__name__
            )
            raise UnsupportedError(f"output {name} is {said}; float32 with a batch axis is needed")
        if tensor.shape[0] != _TRIED:
            raise UnsupportedError(f"output {name} has {tensor.shape[0]} rows for {_TRIED} images")
        if not _NAME.fullmatch(name):
            raise UnsupportedError(f"output name {name!r} is not possible: letters, digits, '_' and '.'")
    if not found:
        raise UnsupportedError(f"{type(module).__name__} gives no tensor")
    return found


def _output(name: str, tensor: Tensor, patches: int, options: Options) -> pb.Output:
    """Tokens where their number is that of patches and prefix; else axes without that meaning."""
    for token in options.prefix_tokens:
        if token not in PREFIXES:
            raise InvalidArgumentError(f"prefix token {token!r} is unknown; known are {', '.join(PREFIXES)}")
    extents = [int(extent) for extent in tensor.shape[1:]]
    prefix = [PREFIXES[token] for token in options.prefix_tokens]
    if len(extents) == 2 and extents[0] in (patches, patches + len(prefix)):
        mine = prefix if extents[0] > patches else []
        shape = axes(batch=0, token=extents[0], feature=extents[1])
        meaning = f"{extents[0]} tokens of the module's own"
        return float_output(name, shape, prefix=mine, image_dependent_prefix=True, meaning=meaning)
    names = [*(f"axis_{index}" for index in range(1, len(extents))), "feature"]
    shape = axes(batch=0, **dict(zip(names, extents, strict=True)))
    return float_output(name, shape, meaning="of the module's own")


def _size(module: nn.Module, name: str, options: Options) -> int:
    given: int | None = getattr(options, name)
    if given is not None:
        return given
    own: Any = getattr(module, name, None)
    if isinstance(own, int) and own > 0:
        return own
    layer = _first_convolution(module)
    if layer is not None and name == "patch_size" and layer.kernel_size == layer.stride:
        return int(layer.kernel_size[0])
    return layer.in_channels if layer is not None and name == "in_channels" else SIZES[name]


def _first_convolution(module: nn.Module) -> nn.Conv2d | None:
    return next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)


def _projection(module: nn.Module, patch: int) -> dict[str, Any]:
    layer = _first_convolution(module)
    if layer is None or layer.kernel_size != (patch, patch) or layer.stride != (patch, patch):
        return {}
    tensors = {"projection.weight": layer.weight, "projection.bias": layer.bias}
    return {name: item.detach().cpu().numpy() for name, item in tensors.items() if item is not None}
