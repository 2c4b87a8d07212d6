"""Modules of one's own: any `nn.Module` from images to tensors, handed over or made by a factory."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral_export import preprocessing as contracts
from vitral_export.attention import unmasked
from vitral_export.loaded import (
    PREFIXES,
    SIZES,
    Compute,
    Loaded,
    Options,
    axes,
    chosen,
    float_output,
    pixel_input,
    sizes_of,
)
from vitral_export.modules.sizes import MOST
from vitral_export.wrap import private

PREFIX = "python:"
"""What the names of these sources begin with."""

SUMMARY = (
    "MODULE:FACTORY, a function without arguments that returns an nn.Module; the working folder is searched"
)
"""What such a source is, in one line."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_TRIED = 2  # images of the run that looks at the outputs
_LONGEST = 300  # characters of a stranger's message
_CALLED = {
    "img_size": ("img_size", "image_size"),
    "patch_size": ("patch_size",),
    "in_channels": ("in_channels", "in_chans", "num_channels"),
}


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
    except (Exception, SystemExit) as error:  # whatever the code at its top raises
        raise InvalidArgumentError(f"{name}: {where} cannot be imported: {_said(error)}") from error
    if not callable(found):
        raise InvalidArgumentError(f"{name}: {where} has no function {factory}")
    try:
        module = found if isinstance(found, nn.Module) else found()
    except (Exception, SystemExit) as error:
        raise InvalidArgumentError(f"{name}: {factory}() failed: {_said(error)}") from error
    if not isinstance(module, nn.Module):
        raise InvalidArgumentError(f"{name}: {factory}() gives {type(module).__name__}, not an nn.Module")
    return module


def describe(module: nn.Module, source: pb.Source, options: Options) -> Loaded:
    """Everything about a module of images, found by running it.

    Sizes are those of the options, else the module's own attributes, else those of its first convolution.

    Raises:
        InvalidArgumentError: it does not take images of these sizes, or gives something else than tensors.
    """
    options.refuse(source.reference, ["embed_dim"])
    names = ("img_size", "patch_size", "in_channels")
    sizes = {name: size_of(module, name, options) or SIZES[name] for name in names}
    size, patch, channels = sizes["img_size"], sizes["patch_size"], sizes["in_channels"]
    if size % patch:
        raise InvalidArgumentError(f"img_size {size} is not a multiple of patch_size {patch}")
    if channels * size * size > MOST:
        raise InvalidArgumentError(f"an image of {channels} x {size} x {size} has more than {MOST} values")
    found = tried(module, _compute, (channels, size, size), options)
    outputs = outputs_of(found, (size // patch) ** 2, options.prefix_tokens)
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
        embedding=projection_of(module, patch, channels),
    )


def _compute(module: nn.Module, rows: Tensor) -> Mapping[str, Tensor]:
    """What a module gives, by name: a tensor, several, or several by name; what is None is not there."""
    with unmasked(module):
        given = module(rows)
    if isinstance(given, Tensor):
        return {"embeddings": given}
    if isinstance(given, tuple | list):
        names = getattr(given, "_fields", None) or [f"output_{index}" for index in range(len(given))]
        given = dict(zip(names, given, strict=True))
    if not isinstance(given, Mapping):
        raise UnsupportedError(f"{type(module).__name__} gives {type(given).__name__}, not tensors")
    return {str(name): tensor for name, tensor in given.items() if tensor is not None}


def tried(
    module: nn.Module, compute: Compute, shape: tuple[int, int, int], options: Options
) -> Mapping[str, Tensor]:
    """What a copy of the module gives for two images, in eval mode: the outputs asked for, or all.

    Raises:
        InvalidArgumentError: it does not take images of this shape.
        UnsupportedError: it gives something else than float32 tensors with a batch axis.
    """
    name = type(module).__name__
    rows = torch.zeros(_TRIED, *shape)
    with torch.inference_mode():
        try:
            found = compute(private(module), rows)
        except UnsupportedError:
            raise
        except Exception as error:  # whatever a stranger's forward raises
            what = f"images of {' x '.join(map(str, shape))}"
            raise InvalidArgumentError(f"{name} does not take {what}: {_said(error)}") from error
    if not found:
        raise UnsupportedError(f"{name} gives no tensor")
    wanted = {key: found[key] for key in options.outputs if key in found} or found
    taken = {"pixel_values", *module.state_dict()}
    for key, tensor in wanted.items():
        _check(key, tensor, others="" if wanted is not found or len(found) == 1 else "; --outputs chooses")
        if key in taken or key.startswith("pixels"):
            raise UnsupportedError(f"output name {key!r} is taken: an input or a weight has it")
    return wanted


def _check(name: str, tensor: object, *, others: str) -> None:
    """Refuses an output that is no float32 tensor with a batch axis."""
    if not isinstance(tensor, Tensor):
        raise UnsupportedError(f"output {name} is {type(tensor).__name__}, not a tensor{others}")
    if tensor.dtype != torch.float32 or tensor.dim() < 2:
        said = f"{tensor.dtype} {tuple(tensor.shape)}"
        raise UnsupportedError(f"output {name} is {said}; float32 with a batch axis is needed{others}")
    if tensor.shape[0] != _TRIED:
        raise UnsupportedError(f"output {name} has {tensor.shape[0]} rows for {_TRIED} images{others}")
    if not _NAME.fullmatch(name):
        raise UnsupportedError(f"output name {name!r} is not possible: letters, digits, '_' and '.'")


def outputs_of(found: Mapping[str, Tensor], patches: int, tokens: Sequence[str]) -> list[pb.Output]:
    """Tokens where their number is that of patches and prefix; else axes without that meaning.

    Raises:
        InvalidArgumentError: a prefix token is unknown, or no output has them.
    """
    for token in tokens:
        if token not in PREFIXES:
            raise InvalidArgumentError(f"prefix token {token!r} is unknown; known are {', '.join(PREFIXES)}")
    prefix = [PREFIXES[token] for token in tokens]
    outputs = [_output(name, tensor, patches, prefix) for name, tensor in found.items()]
    if prefix and not any(item.prefix_tokens for item in outputs):
        given = ", ".join(f"{name} {' x '.join(map(str, item.shape[1:]))}" for name, item in found.items())
        needed = f"{len(prefix)} prefix tokens in front of {patches} patches"
        raise InvalidArgumentError(f"no output has {needed}; the module gives {given}")
    return outputs


def _output(name: str, tensor: Tensor, patches: int, prefix: Sequence[pb.PrefixToken.ValueType]) -> pb.Output:
    extents = [int(extent) for extent in tensor.shape[1:]]
    if len(extents) == 2 and extents[0] in (patches, patches + len(prefix)):
        mine = prefix if extents[0] > patches else []
        shape = axes(batch=0, token=extents[0], feature=extents[1])
        meaning = f"{extents[0]} tokens of the module's own"
        return float_output(name, shape, prefix=mine, image_dependent_prefix=True, meaning=meaning)
    names = [*(f"axis_{index}" for index in range(1, len(extents))), "feature"]
    shape = axes(batch=0, **dict(zip(names, extents, strict=True)))
    return float_output(name, shape, meaning="of the module's own")


def size_of(module: nn.Module, name: str, options: Options) -> int | None:
    """One of `SIZES`, as the options, the module or its first convolution say; None where none does.

    Raises:
        InvalidArgumentError: it is not positive.
        UnsupportedError: it is no number, nor two equal ones.
    """
    given: int | None = getattr(options, name)
    if given is not None:
        if given < 1:
            raise InvalidArgumentError(f"{name} must be a positive whole number, not {given}")
        return given
    for owner in (module, getattr(module, "config", None)):  # models of transformers have their sizes there
        for key in _CALLED[name]:
            if (own := getattr(owner, key, None)) is not None:
                return _side(key, own)
    layer = _first_convolution(module)
    if layer is not None and name == "patch_size" and layer.kernel_size == layer.stride:
        return _side(name, layer.kernel_size)
    return layer.in_channels if layer is not None and name == "in_channels" else None


def _side(name: str, value: object) -> int:
    """One number of a number or a pair of equal ones."""
    sides: list[Any] = list(value) if isinstance(value, tuple | list) else [value]
    if sides and all(type(side) is int and side > 0 and side == sides[0] for side in sides):
        return int(sides[0])
    raise UnsupportedError(f"the module's {name} is {value}, a positive number or two equal ones are needed")


def _first_convolution(module: nn.Module) -> nn.Conv2d | None:
    return next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)


def projection_of(module: nn.Module, patch: int, channels: int) -> dict[str, Any]:
    """Weight and bias of the first convolution, where it embeds patches of this size."""
    layer = _first_convolution(module)
    if layer is None or layer.weight.shape[1:] != (channels, patch, patch) or layer.stride != (patch, patch):
        return {}
    tensors = {"projection.weight": layer.weight, "projection.bias": layer.bias}
    return {name: item.detach().cpu().numpy() for name, item in tensors.items() if item is not None}


def _said(error: BaseException) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return (f"it exits with {said}" if isinstance(error, SystemExit) else said)[:_LONGEST]
