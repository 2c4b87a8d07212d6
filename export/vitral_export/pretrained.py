"""Weights for modules that are built here: from a .safetensors file or from a Hugging Face ViT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral_export import checkpoint, hub
from vitral_export.families import hugging_face, preprocessed
from vitral_export.loaded import SIZES, Kind, Loaded, Options, source_of
from vitral_export.modules import ManualPatchEmbedding, PatchEmbedding, ViTEmbedding

_FROM_VIT = (ManualPatchEmbedding, PatchEmbedding, ViTEmbedding)


def load(kind: Kind, options: Options) -> Loaded:
    """A module of this kind with the weights of `options.weights`.

    Raises:
        InvalidArgumentError: the weights cannot be read, or are not the module's.
    """
    assert options.weights is not None
    if options.weights.startswith(hub.PREFIX):
        return _from_hugging_face(kind, options)
    options.refuse("a .safetensors file", ["revision"])
    module = made(kind, options)
    note = fill(module, options)
    name = Path(options.weights).name
    source = source_of(kind.name, name, weights=pb.WEIGHTS_ORIGIN_CHECKPOINT, note=note)
    source.weights_sha256 = checkpoint.sha256([Path(options.weights)])
    return kind.describe(module, source)


def fill(module: nn.Module, options: Options) -> str:
    """Puts a state dict into a module, and says which.

    Raises:
        InvalidArgumentError: it is no .safetensors file, or not the module's state.
    """
    assert options.weights is not None
    if options.weights.startswith(hub.PREFIX):
        raise InvalidArgumentError(
            "--weights hf:... is for modules that are built here; this one takes a file"
        )
    name = Path(options.weights).name
    checkpoint.fill(module, checkpoint.read(options.weights), where=name)
    return f"weights of {name}"


def _from_hugging_face(kind: Kind, options: Options) -> Loaded:
    """The embedding layers of a ViT, in the module's own form."""
    name = str(options.weights)
    if kind.module not in _FROM_VIT:
        raise InvalidArgumentError(f"{kind.name} has positions that a Hugging Face ViT does not have")
    found = hub.find(name, options.revision)
    model, _ = hugging_face.read(found)
    tensors = {key: torch.from_numpy(array) for key, array in hugging_face.embedding_tensors(model).items()}
    module = made(kind, _sized(options, tensors, model))
    checkpoint.fill(module, _state(module, tensors, name), where=name)
    loaded = kind.describe(module, hugging_face.source(found, kind.name))
    if loaded.preprocessing is None:
        return loaded
    own, undecided = preprocessed.of(preprocessed.processor(found), found.reference)
    return replace(loaded, preprocessing=own, undecided=undecided)


def made(kind: Kind, options: Options) -> nn.Module:
    """A module of this kind and of these sizes, with random weights.

    Raises:
        InvalidArgumentError: there is not enough memory for it.
    """
    try:
        return kind.make(options)
    except (RuntimeError, MemoryError) as error:  # torch raises RuntimeError where memory is short
        sizes = ", ".join(f"{name}={options.size(name)}" for name in SIZES)
        raise InvalidArgumentError(f"{kind.name} of {sizes} cannot be made: {error}") from error


def _sized(options: Options, tensors: Mapping[str, Tensor], model: nn.Module) -> Options:
    """The checkpoint's sizes; others that were said are refused, and sides that differ."""
    width, channels, height, patch = tensors["projection.weight"].shape
    image: int | Sequence[int] = model.config.image_size  # type: ignore[union-attr,assignment]
    sides = (image, image) if isinstance(image, int) else tuple(image)
    if sides[0] != sides[1] or height != patch:
        said = f"images of {sides[0]} x {sides[1]} and patches of {height} x {patch}"
        raise InvalidArgumentError(f"{options.weights} has {said}: both have to be square")
    sizes = {"img_size": sides[0], "patch_size": patch, "in_channels": channels, "embed_dim": width}
    for key, size in sizes.items():
        given: int | None = getattr(options, key)
        if given is not None and given != size:
            raise InvalidArgumentError(
                f"--{key.replace('_', '-')} is {given}, that of {options.weights} is {size}"
            )
    return replace(options, img_size=sides[0], patch_size=patch, in_channels=channels, embed_dim=width)


def _state(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors under the module's names, in its shapes.

    Raises:
        InvalidArgumentError: the model embeds in another way.
    """
    state = {}
    for name, own in module.state_dict().items():
        tensor = tensors.get(name.removeprefix("patch_embedding."))
        if tensor is None or tensor.numel() != own.numel():
            its = "has none" if tensor is None else f"has {tuple(tensor.shape)}"
            raise InvalidArgumentError(f"the module's {name} is {tuple(own.shape)}, {where} {its}")
        state[name] = tensor.reshape(own.shape)
    return state
