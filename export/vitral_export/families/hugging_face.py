"""Checkpoints of Hugging Face: `hf:NAME_OR_FOLDER`, loaded by transformers itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from vitral import spec as specs
from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_export import checkpoint, hub
from vitral_export.families import generic, hidden, loading, preprocessed, table
from vitral_export.families.family import Family, Positions
from vitral_export.families.forward import Forward
from vitral_export.hub import Checkpoint
from vitral_export.loaded import (
    Loaded,
    Options,
    axes,
    chosen,
    float_output,
    left_out,
    pixel_input,
    sizes_of,
    source_of,
)

SUMMARY = "a Hugging Face ViT (DeiT, BEiT, DINO, CLIP ...): a folder, or a name in the hub or its local cache"
"""What such a source is, in one line."""


def load(name: str, options: Options) -> Loaded:
    """The model of `hf:NAME`, everything about it read from the checkpoint.

    Raises:
        InvalidArgumentError: there is no such checkpoint, or it is incomplete, or has pickled weights only.
        UnsupportedError: the checkpoint is of a family that cannot be exported.
    """
    options.refuse(name, ["in_channels", "embed_dim", "weights"])
    found = hub.find(name, options.revision)
    hub.check_form(found)
    told = source(found, "hf")
    if family_of(found) is None:
        return generic.load(found, told, options, processor=preprocessed.processor(found))
    options.refuse(name, ["patch_size", "prefix_tokens"])
    model, missing = read(found)
    return describe(model, told, options, processor=preprocessed.processor(found), untrained=missing)


def source(found: Checkpoint, kind: str) -> pb.Source:
    """Where the weights of a checkpoint came from."""
    told = source_of(
        kind,
        found.reference,
        weights=pb.WEIGHTS_ORIGIN_CHECKPOINT,
        note=f"weights of {found.reference}",
        libraries=["transformers"],
    )
    told.revision = found.revision
    told.weights_sha256 = checkpoint.sha256(hub.weight_files(found))
    return told


def family_of(found: Checkpoint) -> Family | None:
    """The family of a checkpoint; None where it is none of those known.

    Raises:
        UnsupportedError: the family is known, and that it cannot be exported; or there is no model_type.
    """
    kind = found.config().get("model_type")
    if not isinstance(kind, str):
        raise UnsupportedError(f"{found.name} is of no model_type; known are {', '.join(table.FAMILIES)}")
    return table.of_type(kind)


def read(found: Checkpoint) -> tuple[nn.Module, frozenset[str]]:
    """A model of a known family, and the names of the pooler's weights that the checkpoint lacks.

    Raises:
        InvalidArgumentError: see `load`.
        UnsupportedError: see `load`.
    """
    family = family_of(found)
    if family is None:
        kind = found.config()["model_type"]
        raise UnsupportedError(f"{found.name} is a {kind} model; known are {', '.join(table.FAMILIES)}")
    import transformers

    cls = getattr(transformers, family.cls)
    with hub.quiet(), hub.told(found.name):
        config = cls.config_class.from_pretrained(found.folder)  # of two towers, the part of this one
    model, missing = loading.load(
        found,
        cls,
        config,
        may_lack=lambda key: family.is_of_pooler(key) or family.has_no_effect(key),
        may_have=family.is_unused,
    )
    return model, frozenset(filter(family.is_of_pooler, missing))


def describe(
    model: nn.Module,
    source: pb.Source,
    options: Options,
    *,
    processor: Mapping[str, Any] | None,
    untrained: frozenset[str] = frozenset(),
) -> Loaded:
    """Everything about a model of a known family.

    Raises:
        InvalidArgumentError: an output asked for is unknown or untrained, or the checkpoint's preprocessing
            cannot be honoured.
    """
    family = table.of_module(model)
    assert family is not None
    config: Any = model.config
    told, undecided = None, ""
    if config.num_channels == 3:
        told, undecided = preprocessed.of(processor, source.reference, usual=family.processors)
    image, patch = _image(config, family, told, options), _pair(config.patch_size)
    patches = (image[0] // patch[0]) * (image[1] // patch[1])
    known = _outputs(model, family, patches, trained=not untrained)
    prefix = known[0].axes
    states = hidden.asked((*options.outputs, *options.allow_untrained), model, family)
    known += [hidden.output(item, prefix, model, family) for item in states]
    forward = Forward(family, tuple(states))
    return Loaded(
        module=model,
        compute=forward,
        input=pixel_input(channels=config.num_channels, height=image[0], width=image[1]),
        outputs=chosen(known, options, more=hidden.known(model, family)),
        left_out=left_out(known, options),
        architecture=sizes_of(
            model, image=image, patch=patch, channels=config.num_channels, width=config.hidden_size
        ),
        source=source,
        preprocessing=told,
        embedding=embedding_tensors(model),
        undecided=undecided,
        resized=replace(forward, any_size=True),
        static=family.static,
    )


def embedding_tensors(model: nn.Module) -> dict[str, Array]:
    """Projection, CLS token and positions of a model, those there are, as embedding.safetensors has them."""
    family = table.of_module(model)
    assert family is not None
    projection = family.projection(model)
    held = dict(model.named_parameters())
    width = projection.out_channels
    tensors = {"projection.weight": projection.weight, "projection.bias": projection.bias}
    if (token := held.get(family.cls_token)) is not None:
        tensors["cls_token"] = token.reshape(width)
    if (positions := held.get(family.position_table)) is not None:
        tensors["position_embedding"] = positions.reshape(-1, width)
    arrays = {name: item.detach().cpu().numpy() for name, item in tensors.items() if item is not None}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _outputs(model: nn.Module, family: Family, patches: int, *, trained: bool) -> list[pb.Output]:
    """What every model of a family gives, the default first."""
    config: Any = model.config
    prefix = family.prefix_tokens(config)
    tokens = axes(batch=0, token=len(prefix) + patches, feature=config.hidden_size)
    normed = family.norm_is_last and family.last_norm(model) is not None
    after = "tokens after the encoder and its last LayerNorm"
    outputs = [
        float_output(
            "last_hidden_state",
            tokens,
            prefix=prefix,
            image_dependent_prefix=bool(prefix),
            meaning=after if normed else "tokens after the encoder, before any last LayerNorm",
        ),
        float_output(
            "patch_embeddings",
            axes(batch=0, token=patches, feature=config.hidden_size),
            meaning="one token per patch in row-major order, before any position embedding",
        ),
        float_output("embeddings", tokens, prefix=prefix, meaning=_tokens(model, family)),
    ]
    if (pooled := family.pooler(model)) is not None:
        shape = axes(batch=0, feature=pooled.width)
        outputs.append(float_output("pooler_output", shape, meaning=pooled.meaning, trained=trained))
    return outputs


def _tokens(model: nn.Module, family: Family) -> str:
    """The meaning of `embeddings`."""
    names = {
        pb.PREFIX_TOKEN_CLS: "CLS token",
        pb.PREFIX_TOKEN_DISTILLATION: "distillation token",
        pb.PREFIX_TOKEN_REGISTER: "register tokens",
    }
    front = list(dict.fromkeys(names[token] for token in family.prefix_tokens(model.config)))
    said = f"{', '.join(front)} and patch tokens" if front else "patch tokens"
    if family.position_table in dict(model.named_parameters()):
        said += " with their positions"
    if isinstance(model.get_submodule(family.embeddings), nn.LayerNorm):
        said += " through the model's first LayerNorm"
    return f"{said}: what the encoder takes"


def _image(config: Any, family: Family, told: pb.Preprocessing | None, options: Options) -> tuple[int, int]:
    """Height and width of the images that are exported for.

    A model that fits its positions to any image by itself is run at what its own processor gives, whatever
    size it was trained at; one that does not, at the size in its config.

    Raises:
        InvalidArgumentError: a size was asked for, and the model has one of its own.
    """
    if family.positions is not Positions.BY_ITSELF:
        options.refuse(f"a {family.model_type} model", ["img_size"])
        return _pair(config.image_size)
    if options.img_size is not None:
        return options.img_size, options.img_size
    size = None if told is None else specs.input_size(told)
    return _pair(config.image_size) if size is None else (size.height, size.width)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise InvalidArgumentError(f"a size has height and width, not {list(value)}")
    return int(value[0]), int(value[1])
