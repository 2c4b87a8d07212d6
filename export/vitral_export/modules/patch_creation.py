"""How an image becomes patches, as a table of shapes for people who want to see each step."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitral.errors import InvalidArgumentError
from vitral_export.modules.manual_patch_embedding import ManualPatchEmbedding

Language = Literal["en", "ko"]
"""English or Korean."""

_HEADS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {"en": ("step", "shape", "what happens"), "ko": ("단계", "형태", "하는 일")}
)

_WHAT: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "en": {
            "images": "{batch} images of {channels} x {size} x {size}",
            "view": "height and width split into {side} x {patch} each",
            "permute": "a {side} x {side} grid of patches in front, their values behind",
            "reshape": "{count} patches of {channels} x {patch} x {patch} = {values} values",
            "projection": "each patch projected to a token of {width}",
        },
        "ko": {
            "images": "{channels} x {size} x {size} 이미지 {batch}장",
            "view": "높이와 너비를 각각 {side} x {patch}로 나눔",
            "permute": "패치 격자 {side} x {side}를 앞으로, 패치의 값을 뒤로",
            "reshape": "패치 {count}개, 각각 {channels} x {patch} x {patch} = {values}개의 값",
            "projection": "각 패치를 {width}차원 토큰으로 투영",
        },
    }
)


def visualize_patch_creation(
    images: Tensor | None = None,
    *,
    patch_size: int = 16,
    embed_dim: int = 768,
    language: Language = "en",
) -> None:
    """Prints the shape of every step from images to tokens as a table.

    Args:
        images: (B, C, S, S); None: one image of 3 x 224 x 224.
        patch_size: height and width of a patch in pixels.
        embed_dim: width of a token.
        language: of the table, "en" or "ko".

    Raises:
        InvalidArgumentError: the images are not square, patches do not tile them, or the language is unknown.
    """
    if language not in _HEADS:
        raise InvalidArgumentError(f"language is en or ko, not {language!r}")
    shown = torch.zeros(1, 3, 224, 224) if images is None else images
    if shown.dim() != 4 or shown.shape[2] != shown.shape[3]:
        said = " x ".join(map(str, shown.shape))
        raise InvalidArgumentError(f"images are {said}; batch x channels x size x size is needed")
    batch, channels, size, _ = shown.shape
    module = ManualPatchEmbedding(size, patch_size, channels, embed_dim)
    with torch.inference_mode():
        steps = module.patchify_steps(shown.float())
    numbers = {
        "batch": batch,
        "channels": channels,
        "size": size,
        "patch": patch_size,
        "side": size // patch_size,
        "count": module.num_patches,
        "values": channels * patch_size**2,
        "width": embed_dim,
    }
    table = Table(*_HEADS[language])
    for name, tensor in steps.items():
        shape = " x ".join(map(str, tensor.shape))
        table.add_row(name, shape, _WHAT[language][name].format_map(numbers))
    Console().print(table)
