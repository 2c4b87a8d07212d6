"""Whole Vision Transformers of the usual sizes, with random weights: to try, and to benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from vitral.v1 import model_pb2 as pb
from vitral_export import preprocessing as contracts
from vitral_export.families import hugging_face
from vitral_export.loaded import Loaded, Options, source_of
from vitral_export.modules.sizes import check_sizes


@dataclass(frozen=True)
class Shape:
    """Width of a token, layers of the encoder, heads of attention; an MLP is four times as wide."""

    width: int
    depth: int
    heads: int


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "vit-tiny": Shape(192, 12, 3),
        "vit-small": Shape(384, 12, 6),
        "vit-base": Shape(768, 12, 12),
        "vit-large": Shape(1024, 24, 16),
    }
)
"""The sizes of the papers, by the names that the command line takes."""

SUMMARIES: Mapping[str, str] = MappingProxyType(
    {
        name: f"a ViT of {shape.depth} layers of width {shape.width}, random weights; --patch-size 14, 16, 32"
        for name, shape in SHAPES.items()
    }
)
"""What such a source is, in one line each."""

_POOLER = frozenset({"pooler.dense.weight", "pooler.dense.bias"})


def config(name: str, options: Options) -> Any:
    """The ViTConfig of a source.

    Raises:
        InvalidArgumentError: a size is not possible.
    """
    from transformers import ViTConfig

    shape, keys = SHAPES[name], ("img_size", "patch_size", "in_channels")
    check_sizes({**{key: options.size(key) for key in keys}, "embed_dim": shape.width})
    image, patch, channels = (options.size(key) for key in keys)
    return ViTConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        image_size=image,
        patch_size=patch,
        num_channels=channels,
    )


def load(name: str, options: Options) -> Loaded:
    """A ViTModel of transformers as it is initialised there, from torch's global generator.

    The pooler, which nothing trains before a task does, is exported where it is allowed only.

    Raises:
        InvalidArgumentError: a size is not possible, or an output asked for is unknown or not allowed.
    """
    options.refuse(name, ["embed_dim", "weights", "revision", "prefix_tokens"])
    sizes = config(name, options)
    from transformers import ViTModel

    source = source_of(
        name,
        f"{ViTModel.__module__}.{ViTModel.__qualname__}",
        weights=pb.WEIGHTS_ORIGIN_RANDOM,
        note=f"random weights, seed {options.seed}",
        libraries=["transformers"],
    )
    module = ViTModel(sizes).eval()
    sized = replace(options, img_size=None)  # it is the module's own now
    loaded = hugging_face.describe(module, source, sized, processor=None, untrained=_POOLER)
    own = contracts.default(sizes.image_size) if sizes.num_channels == 3 else None
    return replace(loaded, preprocessing=own, undecided="", left_out=())
