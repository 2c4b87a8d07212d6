"""The modules that turn images into tokens, each by its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from vitral.errors import UnsupportedError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_export import preprocessing as contracts
from vitral_export.loaded import Kind, Loaded, Options, axes, float_output, pixel_input, sizes_of
from vitral_export.modules import (
    ManualPatchEmbedding,
    PatchEmbedding,
    PatchEmbedding2DPosition,
    ViTEmbedding,
)

_PATCHES = "one token per patch in row-major order, before any position embedding"


def named_outputs(module: nn.Module, rows: Tensor) -> Mapping[str, Tensor]:
    """What a module of ours gives, by name."""
    named: Mapping[str, Tensor] = module.named_outputs(rows)  # type: ignore[operator]
    return named


def _sizes(options: Options) -> tuple[int, int, int, int]:
    image, patch = options.size("img_size"), options.size("patch_size")
    return image, patch, options.size("in_channels"), options.size("embed_dim")


def _described(
    module: nn.Module,
    patches: PatchEmbedding | ManualPatchEmbedding,
    source: pb.Source,
    outputs: tuple[pb.Output, ...],
    more: Mapping[str, Array],
) -> Loaded:
    """What is alike for every module that begins with a patch embedding; `more` tensors for pictures."""
    _check_projection(patches)
    size, patch, channels, width = (
        patches.img_size,
        patches.patch_size,
        patches.in_channels,
        patches.embed_dim,
    )
    weight = _numpy(patches.projection.weight).reshape(width, channels, patch, patch)
    bias = {} if patches.projection.bias is None else {"projection.bias": _numpy(patches.projection.bias)}
    return Loaded(
        module=module,
        compute=named_outputs,
        input=pixel_input(channels=channels, height=size, width=size),
        outputs=outputs,
        architecture=sizes_of(
            module, image=(size, size), patch=(patch, patch), channels=channels, width=width
        ),
        source=source,
        preprocessing=contracts.default(size) if channels == 3 else None,
        embedding={"projection.weight": weight, **bias, **more},
    )


def _patch_output(patches: PatchEmbedding | ManualPatchEmbedding) -> pb.Output:
    shape = axes(batch=0, token=patches.num_patches, feature=patches.embed_dim)
    return float_output("patch_embeddings", shape, meaning=_PATCHES)


def _describe_patches(module: nn.Module, source: pb.Source) -> Loaded:
    assert isinstance(module, PatchEmbedding | ManualPatchEmbedding)
    described = _described(module, module, source, (_patch_output(module),), {})
    return replace(described, resized=_at_any_size)


def _at_any_size(module: nn.Module, rows: Tensor) -> Mapping[str, Tensor]:
    assert isinstance(module, PatchEmbedding | ManualPatchEmbedding)
    return {"patch_embeddings": module.project(rows)}


def _describe_vit(module: nn.Module, source: pb.Source) -> Loaded:
    assert isinstance(module, ViTEmbedding)
    patches = module.patch_embedding
    count, width = patches.num_patches + 1, patches.embed_dim
    _check_shape("cls_token", module.cls_token, (1, 1, width))
    _check_shape("position_embedding", module.position_embedding, (1, count, width))
    embeddings = float_output(
        "embeddings",
        axes(batch=0, token=count, feature=width),
        prefix=[pb.PREFIX_TOKEN_CLS],
        meaning="CLS token and patch tokens with their positions: what the encoder would take",
    )
    more = {
        "cls_token": _numpy(module.cls_token).reshape(width),
        "position_embedding": _numpy(module.position_embedding).reshape(count, width),
    }
    return _described(module, patches, source, (embeddings, _patch_output(patches)), more)


def _describe_behind_patches(module: nn.Module, source: pb.Source) -> Loaded:
    assert isinstance(module, PatchEmbedding2DPosition)
    patches, positions = module.patch_embedding, module.position_embedding
    embeddings = float_output(
        "embeddings",
        axes(batch=0, token=patches.num_patches, feature=patches.embed_dim),
        meaning="patch tokens with the embeddings of their rows and columns",
    )
    more = {"position_embedding": _numpy(positions.table())}
    return _described(module, patches, source, (embeddings, _patch_output(patches)), more)


def _numpy(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _check_shape(name: str, tensor: Tensor, needed: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != needed:
        raise UnsupportedError(f"{name} is {tuple(tensor.shape)}, that of the module's sizes is {needed}")


def _check_projection(module: PatchEmbedding | ManualPatchEmbedding) -> None:
    """Refuses a projection that is not what the sizes say: the spec would be wrong about it.

    Raises:
        UnsupportedError: with the numbers.
    """
    layer: nn.Module = module.projection
    kind = nn.Conv2d if isinstance(module, PatchEmbedding) else nn.Linear
    if type(layer) is not kind:
        raise UnsupportedError(f"the projection is a {type(layer).__qualname__}, not a {kind.__name__}")
    side = (module.patch_size, module.patch_size)
    pairs: dict[str, tuple[object, object]] = {}
    if isinstance(layer, nn.Conv2d):
        pairs = {
            "kernel size": (layer.kernel_size, side),
            "stride": (layer.stride, side),
            "padding": (layer.padding, (0, 0)),
            "dilation": (layer.dilation, (1, 1)),
            "groups": (layer.groups, 1),
            "weight": (tuple(layer.weight.shape), (module.embed_dim, module.in_channels, *side)),
        }
    elif isinstance(layer, nn.Linear):
        values = module.in_channels * module.patch_size**2
        pairs = {"weight": (tuple(layer.weight.shape), (module.embed_dim, values))}
    for what, (found, needed) in pairs.items():
        if found != needed:
            raise UnsupportedError(
                f"the projection has {what} {found}, that of the module's sizes is {needed}"
            )


PATCH_EMBEDDING = Kind(
    name="patch-embedding",
    summary="image -> one token per patch, as one convolution (the first layer of ViT)",
    make=lambda options: PatchEmbedding(*_sizes(options)),
    describe=_describe_patches,
    module=PatchEmbedding,
)
MANUAL_PATCH_EMBEDDING = Kind(
    name="manual-patch-embedding",
    summary="the same by hand: cut, flatten, project with a linear layer",
    make=lambda options: ManualPatchEmbedding(*_sizes(options)),
    describe=_describe_patches,
    module=ManualPatchEmbedding,
)
VIT_EMBEDDING = Kind(
    name="vit-embedding",
    summary="image -> CLS token and patch tokens with learnable positions (the input of ViT's encoder)",
    make=lambda options: ViTEmbedding(*_sizes(options)),
    describe=_describe_vit,
    module=ViTEmbedding,
)
PATCH_EMBEDDING_2D_POSITION = Kind(
    name="patch-embedding-2d-position",
    summary="image -> patch tokens with row and column positions",
    make=lambda options: PatchEmbedding2DPosition(*_sizes(options)),
    describe=_describe_behind_patches,
    module=PatchEmbedding2DPosition,
)
