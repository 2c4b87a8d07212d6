"""Vision Transformers of timm: `timm:NAME[@FOLDER]`, their tokens by timm's own forward."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_export import timm_config
from vitral_export.families import timm_weights
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

PREFIX = "timm:"
"""What the names of these sources begin with."""

SUMMARY = "NAME[@FOLDER], a Vision Transformer of timm with random weights, or with those of FOLDER"
"""What such a source is, in one line."""


def load(name: str, options: Options) -> Loaded:
    """The model of `timm:NAME`, with random weights, or `timm:NAME@FOLDER`, with those of a folder or file.

    Raises:
        InvalidArgumentError: there is no such model or folder, or its weights are not the model's.
        UnsupportedError: timm is not installed, or the model is of another family.
    """
    options.refuse(name, ["patch_size", "in_channels", "embed_dim", "weights", "revision", "prefix_tokens"])
    architecture, at, where = name.removeprefix(PREFIX).partition("@")
    if not architecture or (at and not where):
        raise InvalidArgumentError(f"{name} is not {PREFIX}NAME or {PREFIX}NAME@FOLDER")
    if not at:
        model = timm_weights.random(name, architecture, img_size=options.img_size)
        source = source_of(
            "timm",
            architecture,
            weights=pb.WEIGHTS_ORIGIN_RANDOM,
            note=f"random weights, seed {options.seed}",
            libraries=["timm"],
        )
        return describe(model, source, options)
    options.refuse(name, ["img_size"])
    file = timm_weights.find(name, Path(where).expanduser())
    model = timm_weights.read(name, architecture, file)
    source = source_of(
        "timm",
        f"{architecture}@{Path(where).expanduser().resolve().name}",
        weights=pb.WEIGHTS_ORIGIN_CHECKPOINT,
        note=f"weights of {file.name}",
        libraries=["timm"],
    )
    with file.open("rb") as opened:
        source.weights_sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return describe(model, source, options)


def describe(model: Any, source: pb.Source, options: Options) -> Loaded:
    """Everything about a VisionTransformer of timm.

    Raises:
        InvalidArgumentError: an output asked for is unknown.
    """
    stem = model.patch_embed
    image, patch = tuple(stem.img_size), tuple(stem.patch_size)
    channels, width = stem.proj.in_channels, model.embed_dim
    outputs = _outputs(model, stem.num_patches)
    told, undecided = (None, "") if channels != 3 else _preprocessing(model, source.reference)
    return Loaded(
        module=model,
        compute=_compute,
        input=pixel_input(channels=channels, height=image[0], width=image[1]),
        outputs=chosen(outputs, options),
        left_out=left_out(outputs, options),
        architecture=sizes_of(model, image=image, patch=patch, channels=channels, width=width),
        source=source,
        preprocessing=told,
        embedding=_embedding(model),
        undecided=undecided,
    )


def prefix_of(model: Any) -> list[pb.PrefixToken.ValueType]:
    """The tokens in front of the patches, in the model's own order.

    Raises:
        UnsupportedError: their number is another than the model says.
    """
    held = {
        pb.PREFIX_TOKEN_CLS: getattr(model, "cls_token", None),
        pb.PREFIX_TOKEN_DISTILLATION: getattr(model, "dist_token", None),
        pb.PREFIX_TOKEN_REGISTER: getattr(model, "reg_token", None),
    }
    tokens = [kind for kind, token in held.items() if token is not None for _ in range(token.shape[1])]
    if len(tokens) != model.num_prefix_tokens:
        said = f"{len(tokens)} tokens are in front of the patches, not {model.num_prefix_tokens}"
        raise UnsupportedError(f"{type(model).__name__}: {said}")
    return tokens


def _pools(model: Any) -> bool:
    """Whether pooling has weights: attention, or the LayerNorm behind a mean. All other pooling is a view."""
    return model.attn_pool is not None or not isinstance(model.fc_norm, nn.Identity)


def _outputs(model: Any, patches: int) -> list[pb.Output]:
    prefix, width = prefix_of(model), model.embed_dim
    tokens = axes(batch=0, token=patches + len(prefix), feature=width)
    normed = "before any LayerNorm" if isinstance(model.norm, nn.Identity) else "and its last LayerNorm"
    outputs = [
        float_output(
            "last_hidden_state",
            tokens,
            prefix=prefix,
            image_dependent_prefix=True,
            meaning=f"tokens after the encoder {normed}",
        ),
        float_output(
            "patch_embeddings",
            axes(batch=0, token=patches, feature=width),
            meaning="one token per patch in row-major order, before any position embedding",
        ),
        float_output(
            "embeddings",
            tokens,
            prefix=prefix,
            meaning="tokens with their positions, those in front included: what the encoder takes",
        ),
    ]
    if _pools(model):
        meaning = f"what the classifier takes: tokens pooled by {model.global_pool}, normed"
        outputs.append(float_output("pooler_output", axes(batch=0, feature=width), meaning=meaning))
    return outputs


def _compute(model: nn.Module, rows: Tensor) -> Mapping[str, Tensor]:
    """One pass of timm's own forward; what flows through it on the way is looked at by hooks."""
    seen: dict[str, Tensor] = {}
    inner: Any = model
    places = {"patch_embeddings": inner.patch_embed, "embeddings": inner.norm_pre}
    handles = [
        place.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
        for name, place in places.items()
    ]
    try:
        tokens = inner.forward_features(rows)
    finally:
        for handle in handles:
            handle.remove()
    if inner.dynamic_img_size:
        seen["patch_embeddings"] = seen["patch_embeddings"].flatten(1, 2)  # B H W D -> B N D
    outputs = {"last_hidden_state": tokens, **seen}
    if _pools(inner):
        outputs["pooler_output"] = inner.forward_head(tokens, pre_logits=True)
    return outputs


def _preprocessing(model: Any, where: str) -> tuple[pb.Preprocessing | None, str]:
    """What timm's evaluation does to pictures of the model's own size, or why that cannot be honoured."""
    try:
        size = {"input_size": (3, *model.patch_embed.img_size)}
        return timm_config.from_timm({**model.pretrained_cfg, **size}), ""
    except InvalidArgumentError as error:
        ways = "--preprocessing FILE.json says what its pictures go through, none that there are none"
        return None, f"{where}: {error}: {ways}"


def _embedding(model: Any) -> dict[str, Array]:
    """Projection, CLS token and positions; what has no position gets zeros, which is what is added to it."""
    held: dict[str, Tensor | None] = {
        "projection.weight": model.patch_embed.proj.weight,
        "projection.bias": model.patch_embed.proj.bias,
        "cls_token": None if model.cls_token is None else model.cls_token[0, 0],
    }
    if model.pos_embed is not None:
        table = model.pos_embed[0]
        missing = model.patch_embed.num_patches + model.num_prefix_tokens - len(table)
        held["position_embedding"] = torch.cat([table.new_zeros(missing, table.shape[1]), table])
    there = {name: tensor for name, tensor in held.items() if tensor is not None}
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in there.items()}
