"""What can be exported: each kind of source, and the module with everything known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType

import torch
from torch import nn

from vitral import __version__
from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export import preprocessing as contracts
from vitral_export.modules import PatchEmbedding

_LIBRARIES = ("numpy", "onnx", "onnxscript", "torch")
_SEED_LIMIT = 2**63


@dataclass(frozen=True)
class Options:
    """Sizes and seed of a source that is built here.

    Attributes:
        seed: seed of the random weights.
        img_size: height and width of the image in pixels.
        patch_size: height and width of a patch in pixels.
        in_channels: channels of the image.
        embed_dim: width of a token.
    """

    seed: int = 0
    img_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    embed_dim: int = 768


@dataclass(frozen=True)
class Loaded:
    """A module and what its artifact will say about it.

    Attributes:
        module: as it came; never changed.
        input: the float32 graph's input.
        outputs: what the module returns, in order.
        architecture: its sizes.
        source: where module and weights came from.
        preprocessing: from picture to input; None where only `prepared` is accepted.
        embedding: name in embedding.safetensors to name of the module's parameter.
    """

    module: nn.Module
    input: pb.GraphInput
    outputs: tuple[pb.Output, ...]
    architecture: pb.Architecture
    source: pb.Source
    preprocessing: pb.Preprocessing | None
    embedding: Mapping[str, str]


@dataclass(frozen=True)
class Kind:
    """One kind of source.

    Attributes:
        name: what the command line takes.
        summary: what it is, in one line.
        make: the module of these sizes, with weights from torch's global generator.
        describe: the module's artifact data, without preprocessing; the source is filled in later.
        module: the class whose instances `given` accepts.
    """

    name: str
    summary: str
    make: Callable[[Options], nn.Module]
    describe: Callable[[nn.Module, pb.Source], Loaded]
    module: type[nn.Module]


def load(name: str, options: Options) -> Loaded:
    """The source of this name with random weights from the seed.

    Raises:
        InvalidArgumentError: there is no such source, or its sizes or the seed are not possible.
    """
    if name not in SOURCES:
        raise InvalidArgumentError(f"unknown source {name!r}; known are {', '.join(SOURCES)}")
    if not 0 <= options.seed < _SEED_LIMIT:
        raise InvalidArgumentError(f"seed must be from 0 to 2**63 - 1, not {options.seed}")
    kind = SOURCES[name]
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays where it was
        torch.manual_seed(options.seed)
        module = _made(kind, options)
    note = f"random weights, seed {options.seed}"
    source = _source(kind, module, weights=pb.WEIGHTS_ORIGIN_RANDOM, note=note)
    return kind.describe(module, source)


def _made(kind: Kind, options: Options) -> nn.Module:
    try:
        return kind.make(options)
    except (RuntimeError, MemoryError) as error:  # torch raises RuntimeError where memory is short
        raise InvalidArgumentError(f"{kind.name} of {options} cannot be made: {error}") from error


def given(module: nn.Module) -> Loaded:
    """A module handed over with its weights.

    Raises:
        UnsupportedError: modules of its class cannot be exported.
        InvalidArgumentError: a weight is not finite or not float32, or holds no numbers.
    """
    for kind in SOURCES.values():
        if type(module) is kind.module:  # a subclass may compute something else
            check_weights(module)
            source = _source(kind, module, weights=pb.WEIGHTS_ORIGIN_GIVEN, note="weights as given")
            return kind.describe(module, source)
    known = ", ".join(kind.module.__name__ for kind in SOURCES.values())
    raise UnsupportedError(f"modules of class {type(module).__qualname__} cannot be exported; known: {known}")


def check_weights(module: nn.Module) -> None:
    """Refuses weights that are not float32, or hold NaN or Inf, or nothing.

    Raises:
        InvalidArgumentError: with the first such tensor.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise InvalidArgumentError(f"weight {name} is {tensor.dtype}, torch.float32 is expected")
        if tensor.is_meta:
            raise InvalidArgumentError(f"weight {name} is on the meta device: it holds no numbers")
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise InvalidArgumentError(
                f"weight {name} holds NaN or Inf in {bad} of {tensor.numel()} elements"
            )


def _source(kind: Kind, module: nn.Module, *, weights: pb.WeightsOrigin.ValueType, note: str) -> pb.Source:
    libraries = {name: metadata.version(name) for name in _LIBRARIES} | {"vitral": __version__}
    reference = f"{kind.module.__module__}.{kind.module.__qualname__}"
    return pb.Source(
        kind=kind.name, reference=reference, weights=weights, weights_note=note, libraries=libraries
    )


def _make_patch_embedding(options: Options) -> nn.Module:
    return PatchEmbedding(options.img_size, options.patch_size, options.in_channels, options.embed_dim)


def _describe_patch_embedding(module: nn.Module, source: pb.Source) -> Loaded:
    assert isinstance(module, PatchEmbedding)
    _check_projection(module)
    size, patch = module.img_size, module.patch_size
    side = size // patch
    architecture = pb.Architecture(
        module=type(module).__name__,
        image_size=tensor_pb2.ImageSize(height=size, width=size),
        patch_size=tensor_pb2.ImageSize(height=patch, width=patch),
        in_channels=module.in_channels,
        embed_dim=module.embed_dim,
        grid=tensor_pb2.Grid(height=side, width=side),
    )
    output = pb.Output(
        name="patch_embeddings",
        dtype=tensor_pb2.DATA_TYPE_FLOAT32,
        axes=axes(batch=0, token=module.num_patches, feature=module.embed_dim),
        trained=True,
        meaning="one token per patch in row-major order, before any position embedding",
    )
    return Loaded(
        module=module,
        input=pixel_input(channels=module.in_channels, size=size),
        outputs=(output,),
        architecture=architecture,
        source=source,
        preprocessing=contracts.default(size) if module.in_channels == 3 else None,
        embedding=MappingProxyType({name: name for name, _ in module.named_parameters()}),
    )


def _check_projection(module: PatchEmbedding) -> None:
    """Refuses a projection that is not what the sizes say: the spec would be wrong about it.

    Raises:
        UnsupportedError: with the numbers.
    """
    layer: nn.Module = module.projection
    if type(layer) is not nn.Conv2d:
        raise UnsupportedError(f"the projection is a {type(layer).__qualname__}, not a Conv2d")
    patch = (module.patch_size, module.patch_size)
    pairs = {
        "kernel size": (layer.kernel_size, patch),
        "stride": (layer.stride, patch),
        "padding": (layer.padding, (0, 0)),
        "dilation": (layer.dilation, (1, 1)),
        "groups": (layer.groups, 1),
        "weight": (tuple(layer.weight.shape), (module.embed_dim, module.in_channels, *patch)),
    }
    for what, (found, needed) in pairs.items():
        if found != needed:
            raise UnsupportedError(
                f"the projection has {what} {found}, that of the module's sizes is {needed}"
            )


def axes(**sizes: int) -> list[pb.Axis]:
    """Axes by name and extent, 0 for a dynamic one."""
    return [pb.Axis(name=name, size=size) for name, size in sizes.items()]


def pixel_input(*, channels: int, size: int) -> pb.GraphInput:
    """The input `pixel_values`: float32 (B, C, H, W)."""
    return pb.GraphInput(
        name="pixel_values",
        dtype=tensor_pb2.DATA_TYPE_FLOAT32,
        axes=axes(batch=0, channel=channels, height=size, width=size),
    )


SOURCES: Mapping[str, Kind] = MappingProxyType(
    {
        "patch-embedding": Kind(
            name="patch-embedding",
            summary="image -> one token per patch, as one convolution (the first layer of ViT)",
            make=_make_patch_embedding,
            describe=_describe_patch_embedding,
            module=PatchEmbedding,
        ),
    }
)
"""Every kind of source by name."""
