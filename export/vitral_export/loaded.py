"""A module with everything its artifact will say about it, and the kinds of source that give one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType

from torch import Tensor, nn

from vitral import __version__
from vitral.errors import InvalidArgumentError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2

SIZES: Mapping[str, int] = MappingProxyType(
    {"img_size": 224, "patch_size": 16, "in_channels": 3, "embed_dim": 768}
)
"""Sizes of a source that is built here, where nothing else is said."""

PREFIXES: Mapping[str, pb.PrefixToken.ValueType] = MappingProxyType(
    {
        "cls": pb.PREFIX_TOKEN_CLS,
        "distillation": pb.PREFIX_TOKEN_DISTILLATION,
        "register": pb.PREFIX_TOKEN_REGISTER,
    }
)
"""Tokens in front of the patches, by the names that the command line takes."""

Compute = Callable[[nn.Module, Tensor], Mapping[str, Tensor]]
"""Every output of a module by name, from its input."""

_LIBRARIES = ("numpy", "onnx", "onnxscript", "torch")


@dataclass(frozen=True)
class Options:
    """What can be said about a source. None: the source's own, or `SIZES`.

    Attributes:
        seed: seed of the random weights.
        img_size: height and width of the image in pixels.
        patch_size: height and width of a patch in pixels.
        in_channels: channels of the image.
        embed_dim: width of a token.
        weights: a .safetensors file with a state dict, or `hf:NAME_OR_FOLDER`.
        revision: revision of a Hugging Face checkpoint.
        outputs: names of the outputs to export, the default one first; empty: the source's own choice.
        allow_untrained: outputs that are exported though their weights are not trained.
        prefix_tokens: tokens in front of the patches of one's own module, see `PREFIXES`.
        jax_exact: a Google checkpoint with its own LayerNorm eps 1e-6 and tanh GELU, not transformers'.
    """

    seed: int = 0
    img_size: int | None = None
    patch_size: int | None = None
    in_channels: int | None = None
    embed_dim: int | None = None
    weights: str | None = None
    revision: str | None = None
    outputs: tuple[str, ...] = ()
    allow_untrained: tuple[str, ...] = ()
    prefix_tokens: tuple[str, ...] = ()
    jax_exact: bool = False

    def size(self, name: str) -> int:
        """One of `SIZES`, as it was said or by default."""
        given: int | None = getattr(self, name)
        return SIZES[name] if given is None else given

    def refuse(self, source: str, names: Sequence[str]) -> None:
        """Refuses options that a source has no use for.

        Raises:
            InvalidArgumentError: one of them was given.
        """
        for name in names:
            given = getattr(self, name)
            if given is not None and given is not False and given != ():
                option = f"--{name.replace('_', '-')}"
                raise InvalidArgumentError(f"source {source} takes no {option}")


@dataclass(frozen=True)
class Loaded:
    """A module and what its artifact will say about it.

    Attributes:
        module: as it came; never changed.
        compute: the module's outputs by name; a superset of `outputs`.
        input: the float32 graph's input.
        outputs: what is exported, the default one first.
        architecture: its sizes.
        source: where module and weights came from.
        preprocessing: from picture to input; None where only `prepared` is accepted.
        undecided: why the source does not say what its pictures go through, though it takes some.
        embedding: tensors of embedding.safetensors: `projection.weight` (D, C, P, P), `projection.bias` (D,),
            `cls_token` (D,), `position_embedding` (prefix + N, D), those there are; the positions as the
            module has them, for registers none, and of the size that it was trained at.
        left_out: outputs that nobody chose or left out, and that are not exported for they are untrained.
        resized: the outputs for images of any size, where `compute` has them for the native one only.
        static: why the module knows one size only; empty where that is to be tried.
    """

    module: nn.Module
    compute: Compute
    input: pb.GraphInput
    outputs: tuple[pb.Output, ...]
    architecture: pb.Architecture
    source: pb.Source
    preprocessing: pb.Preprocessing | None
    embedding: Mapping[str, Array]
    undecided: str = ""
    left_out: tuple[str, ...] = ()
    resized: Compute | None = None
    static: str = ""


@dataclass(frozen=True)
class Kind:
    """One kind of source with sizes of its own.

    Attributes:
        name: what the command line takes.
        summary: what it is, in one line.
        make: the module of these sizes, with weights from torch's global generator.
        describe: everything about an instance; the source is made by `source_of`.
        module: the class whose instances it describes.
    """

    name: str
    summary: str
    make: Callable[[Options], nn.Module]
    describe: Callable[[nn.Module, pb.Source], Loaded]
    module: type[nn.Module]


def source_of(
    kind: str,
    reference: str,
    *,
    weights: pb.WeightsOrigin.ValueType,
    note: str,
    libraries: Sequence[str] = (),
) -> pb.Source:
    """Where a module came from, with the versions of the libraries that shape its export."""
    versions = {name: metadata.version(name) for name in (*_LIBRARIES, *libraries)}
    return pb.Source(
        kind=kind,
        reference=reference,
        weights=weights,
        weights_note=note,
        libraries=versions | {"vitral": __version__},
    )


def axes(**sizes: int) -> list[pb.Axis]:
    """Axes by name and extent, 0 for a dynamic one."""
    return [pb.Axis(name=name, size=size) for name, size in sizes.items()]


def float_output(
    name: str,
    shape: Sequence[pb.Axis],
    *,
    meaning: str,
    prefix: Sequence[pb.PrefixToken.ValueType] = (),
    image_dependent_prefix: bool = False,
    trained: bool = True,
) -> pb.Output:
    """A float32 output."""
    return pb.Output(
        name=name,
        dtype=tensor_pb2.DATA_TYPE_FLOAT32,
        axes=shape,
        prefix_tokens=prefix,
        trained=trained,
        image_dependent_prefix=image_dependent_prefix,
        meaning=meaning,
    )


def pixel_input(*, channels: int, height: int, width: int) -> pb.GraphInput:
    """The input `pixel_values`: float32 (B, C, H, W)."""
    return pb.GraphInput(
        name="pixel_values",
        dtype=tensor_pb2.DATA_TYPE_FLOAT32,
        axes=axes(batch=0, channel=channels, height=height, width=width),
    )


def sizes_of(
    module: nn.Module, *, image: tuple[int, int], patch: tuple[int, int], channels: int, width: int
) -> pb.Architecture:
    """The sizes of a module, heights first."""
    return pb.Architecture(
        module=type(module).__name__,
        image_size=tensor_pb2.ImageSize(height=image[0], width=image[1]),
        patch_size=tensor_pb2.ImageSize(height=patch[0], width=patch[1]),
        in_channels=channels,
        embed_dim=width,
        grid=tensor_pb2.Grid(height=image[0] // patch[0], width=image[1] // patch[1]),
    )


def chosen(known: Sequence[pb.Output], options: Options, *, more: str = "") -> tuple[pb.Output, ...]:
    """The outputs to export: those asked for in that order, or all that are trained.

    Args:
        known: what there is.
        options: what was asked for.
        more: what else could have been asked for, in words.

    Raises:
        InvalidArgumentError: one asked for is unknown, named twice, or untrained and not allowed.
    """
    by_name = {item.name: item for item in known}
    for name in (*options.outputs, *options.allow_untrained):
        if name not in by_name:
            names = ", ".join([*by_name, *([more] if more else [])])
            raise InvalidArgumentError(f"there is no output {name!r}; known are {names}")
    if len(set(options.outputs)) != len(options.outputs):
        raise InvalidArgumentError(f"outputs {', '.join(options.outputs)} name one twice")
    allowed = set(options.allow_untrained)
    wanted = options.outputs or tuple(item.name for item in known if item.trained or item.name in allowed)
    for name in wanted:
        if not by_name[name].trained and name not in allowed:
            raise InvalidArgumentError(
                f"output {name} is untrained, its weights are not in the checkpoint: serving it would serve "
                f"noise; --allow-untrained {name} exports it, marked"
            )
    if not any(by_name[name].trained for name in wanted):
        raise InvalidArgumentError(
            f"outputs {', '.join(wanted)} are all untrained: none could be the default"
        )
    return tuple(by_name[name] for name in wanted)


def left_out(known: Sequence[pb.Output], options: Options) -> tuple[str, ...]:
    """Untrained outputs that `chosen` leaves out where nothing was chosen."""
    if options.outputs:
        return ()
    return tuple(item.name for item in known if not item.trained and item.name not in options.allow_untrained)
