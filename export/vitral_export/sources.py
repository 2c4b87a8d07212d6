"""What can be exported: a source by its name, or a module that is handed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral_export import checkpoint, flax_checkpoint, hub, onnx_file, pretrained
from vitral_export.families import embedding, google, hugging_face, own, position, preset, table, timm_vit
from vitral_export.loaded import Kind, Loaded, Options, chosen, source_of

_SEED_LIMIT = 2**63

SOURCES: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            embedding.PATCH_EMBEDDING,
            embedding.MANUAL_PATCH_EMBEDDING,
            embedding.VIT_EMBEDDING,
            embedding.PATCH_EMBEDDING_2D_POSITION,
            position.POSITION_EMBEDDING_2D,
        )
    }
)
"""Every kind of source with sizes of its own, by name."""

OPEN_SOURCES: Mapping[str, str] = MappingProxyType(
    {
        **preset.SUMMARIES,
        hub.PREFIX + "...": hugging_face.SUMMARY,
        flax_checkpoint.PREFIX + "...": google.SUMMARY,
        timm_vit.PREFIX + "...": timm_vit.SUMMARY,
        own.PREFIX + "...": own.SUMMARY,
        onnx_file.PREFIX + "...": onnx_file.SUMMARY,
    }
)
"""The others: how their names begin, and what they are."""


def load(name: str, options: Options) -> Loaded:
    """The source of this name.

    Raises:
        InvalidArgumentError: there is no such source, or an option or a weight is not possible.
        UnsupportedError: it is known what it is, and that it cannot be exported.
    """
    if not 0 <= options.seed < _SEED_LIMIT:
        raise InvalidArgumentError(f"seed must be from 0 to 2**63 - 1, not {options.seed}")
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays where it was
        torch.manual_seed(options.seed)
        loaded = _loaded(name, options)
    check_weights(loaded.module)
    return loaded


def _loaded(name: str, options: Options) -> Loaded:
    if name.startswith(flax_checkpoint.PREFIX):
        return google.load(name, options)
    options.refuse(name, ["jax_exact"])
    if name in preset.SUMMARIES:
        return preset.load(name, options)
    if name.startswith(timm_vit.PREFIX):
        return timm_vit.load(name, options)
    if name.startswith(hub.PREFIX):
        return hugging_face.load(name, options)
    if name.startswith(own.PREFIX):
        options.refuse(name, ["revision"])
        return _own(own.make(name), name, options)
    if name.startswith(onnx_file.PREFIX):
        raise InvalidArgumentError(f"{name} is a graph, not a module: `build` adopts it")
    if name in SOURCES:
        return _built(SOURCES[name], options)
    known = ", ".join((*SOURCES, *OPEN_SOURCES))
    raise InvalidArgumentError(f"unknown source {name!r}; known are {known}")


def given(module: nn.Module, options: Options | None = None) -> Loaded:
    """A module handed over with its weights.

    Raises:
        UnsupportedError: it gives something that cannot be exported.
        InvalidArgumentError: it is no module, or a weight is not finite or not float32, or holds no numbers.
    """
    if not isinstance(module, nn.Module):
        raise InvalidArgumentError(f"a torch.nn.Module is needed, not a {type(module).__name__}")
    options = options or Options()
    options.refuse("a module with its weights", ["weights", "revision", "jax_exact"])
    check_weights(module)
    reference = f"{type(module).__module__}.{type(module).__qualname__}"
    for kind in SOURCES.values():
        if type(module) is kind.module:  # a subclass may compute something else
            options.refuse(kind.name, ["img_size", "patch_size", "in_channels", "embed_dim", "prefix_tokens"])
            return _selected(kind.describe(module, _as_given(kind.name, reference)), options)
    if table.of_module(module) is not None:
        options.refuse(reference, ["patch_size", "in_channels", "embed_dim", "prefix_tokens"])
        source = _as_given("hf", reference, libraries=["transformers"])
        return hugging_face.describe(module, source, options, processor=None)
    return own.describe(module, _as_given("module", reference), options)


def _as_given(kind: str, reference: str, *, libraries: Sequence[str] = ()) -> pb.Source:
    note = "weights as given"
    return source_of(kind, reference, weights=pb.WEIGHTS_ORIGIN_GIVEN, note=note, libraries=libraries)


def check_weights(module: nn.Module) -> None:
    """Refuses weights that are not float32, or hold NaN or Inf, or nothing.

    Raises:
        InvalidArgumentError: with the first such tensor.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise InvalidArgumentError(f"weight {name} has no shape yet: the module has not seen an image")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise InvalidArgumentError(f"weight {name} is {tensor.dtype}, torch.float32 is expected")
        if tensor.is_meta:
            raise InvalidArgumentError(f"weight {name} is on the meta device: it holds no numbers")
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise InvalidArgumentError(
                f"weight {name} holds NaN or Inf in {bad} of {tensor.numel()} elements"
            )


def _built(kind: Kind, options: Options) -> Loaded:
    """A source with sizes of its own: random weights from the seed, or those of a checkpoint."""
    options.refuse(kind.name, ["prefix_tokens"])
    if options.weights is not None:
        return _selected(pretrained.load(kind, options), options)
    options.refuse(f"{kind.name} without --weights", ["revision"])
    module = pretrained.made(kind, options)
    reference = f"{kind.module.__module__}.{kind.module.__qualname__}"
    note = f"random weights, seed {options.seed}"
    source = source_of(kind.name, reference, weights=pb.WEIGHTS_ORIGIN_RANDOM, note=note)
    return _selected(kind.describe(module, source), options)


def _own(module: nn.Module, name: str, options: Options) -> Loaded:
    note = "weights as its factory made them"
    if options.weights is not None:
        note = pretrained.fill(module, options)
    check_weights(module)
    source = source_of("python", name.removeprefix(own.PREFIX), weights=pb.WEIGHTS_ORIGIN_GIVEN, note=note)
    if options.weights is not None:
        source.weights_sha256 = checkpoint.sha256([Path(options.weights)])
    return own.describe(module, source, options)


def _selected(loaded: Loaded, options: Options) -> Loaded:
    return replace(loaded, outputs=chosen(loaded.outputs, options))
