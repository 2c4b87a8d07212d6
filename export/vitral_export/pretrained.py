"""Weights for modules that are built here: from a .safetensors file or from a Hugging Face ViT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral_export import checkpoint
from vitral_export.families import hugging_face
from vitral_export.loaded import Kind, Loaded, Options, source_of
from vitral_export.modules import ManualPatchEmbedding, PatchEmbedding, ViTEmbedding

_FROM_VIT = (ManualPatchEmbedding, PatchEmbedding, ViTEmbedding)


def load(kind: Kind, options: Options) -> Loaded:
    """A module of this kind with the weights of `options.weights`.

    Raises:
        InvalidArgumentError: the weights cannot be read, or are not the module's.
    """
    assert options.weights is not None
    if options.weights.startswith(hugging_face.PREFIX):
        return _from_hugging_face(kind, options)
    options.refuse("a .safetensors file", ["revision"])
    module = kind.make(options)
    note = fill(module, options)
    name = Path(options.weights).name
    source = source_of(kind.name, name, weights=pb.WEIGHTS_ORIGIN_CHECKPOINT, note=note)
    return kind.describe(module, source)


def fill(module: nn.Module, options: Options) -> str:
    """Puts a state dict into a module, and says which.

    Raises:
        InvalidArgumentError: it is no .safetensors file, or not the module's state.
    """
    assert options.weights is not None
    if options.weights.startswith(hugging_face.PREFIX):
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
    model, _, revision = hugging_face.checkpoint(name, options.revision)
    tensors = {key: torch.from_numpy(array) for key, array in hugging_face.embedding_tensors(model).items()}
    sized = _sized(kind, options, tensors, model)
    module = kind.make(sized)
    checkpoint.fill(module, _state(module, tensors), where=name)
    said = hugging_face.reference(name)
    source = source_of(
        kind.name,
        said,
        weights=pb.WEIGHTS_ORIGIN_CHECKPOINT,
        note=f"weights of {said}",
        libraries=["transformers"],
    )
    source.revision = revision
    loaded = kind.describe(module, source)
    if loaded.preprocessing is None:
        return loaded
    told = hugging_face.processor(name, options.revision)
    own, undecided = hugging_face.preprocessing_of(told, said)
    return replace(loaded, preprocessing=own, undecided=undecided)


def _sized(kind: Kind, options: Options, tensors: Mapping[str, Tensor], model: nn.Module) -> Options:
    """The checkpoint's sizes; others that were said are refused."""
    width, channels, patch, _ = tensors["projection.weight"].shape
    image: int | tuple[int, int] = model.config.image_size  # type: ignore[union-attr,assignment]
    side = image if isinstance(image, int) else image[0]
    sizes = {"img_size": side, "patch_size": patch, "in_channels": channels, "embed_dim": width}
    for key, size in sizes.items():
        said: int | None = getattr(options, key)
        if said is not None and said != size:
            raise InvalidArgumentError(
                f"--{key.replace('_', '-')} is {said}, that of {options.weights} is {size}"
            )
    return replace(options, img_size=side, patch_size=patch, in_channels=channels, embed_dim=width)


def _state(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the module's names, in its shapes."""
    return {
        name: tensors[name.removeprefix("patch_embedding.")].reshape(own.shape)
        for name, own in module.state_dict().items()
    }
