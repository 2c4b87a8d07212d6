"""Hugging Face ViT checkpoints: `hf:NAME_OR_FOLDER`, loaded by transformers itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_export import preprocessor_config
from vitral_export.loaded import (
    Loaded,
    Options,
    axes,
    chosen,
    float_output,
    pixel_input,
    sizes_of,
    source_of,
)

PREFIX = "hf:"
"""What the names of these sources begin with."""

SUMMARY = "a Hugging Face ViT: a folder, or a name in the hub or its local cache"
"""What such a source is, in one line."""

FAMILIES: Mapping[str, str] = {"vit": "ViTModel"}
"""Model types that are known, and their classes in transformers."""

_UNMASKED = "vitral_unmasked"
_HEADS = ("classifier.", "decoder.")


def load(name: str, options: Options) -> Loaded:
    """The model of `hf:NAME`, everything about it read from the checkpoint.

    Raises:
        InvalidArgumentError: there is no such checkpoint, or it is incomplete, or has pickled weights only.
        UnsupportedError: the checkpoint is of another family.
    """
    options.refuse(name, ["img_size", "patch_size", "in_channels", "embed_dim", "weights", "prefix_tokens"])
    model, missing, revision = checkpoint(name, options.revision)
    said = reference(name)
    source = source_of(
        "hf",
        said,
        weights=pb.WEIGHTS_ORIGIN_CHECKPOINT,
        note=f"weights of {said}",
        libraries=["transformers"],
    )
    source.revision = revision
    return describe(model, source, options, processor=processor(name, options.revision), untrained=missing)


def checkpoint(name: str, revision: str | None) -> tuple[nn.Module, frozenset[str], str]:
    """The model, the names of the parameters that the checkpoint lacks (the pooler's at most), its commit.

    Raises:
        InvalidArgumentError: see `load`.
        UnsupportedError: see `load`.
    """
    import transformers

    where = _where(name)
    pinned: dict[str, Any] = {} if revision is None else {"revision": revision}
    with _quiet(), _told(name):
        config = transformers.AutoConfig.from_pretrained(where, **pinned)
        kind = getattr(config, "model_type", "")
        if kind not in FAMILIES:
            raise UnsupportedError(f"{name} is a {kind or 'nameless'} model; known are {', '.join(FAMILIES)}")
        cls = getattr(transformers, FAMILIES[kind])
        model, info = cls.from_pretrained(
            where, **pinned, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    missing = frozenset(map(str, info["missing_keys"]))
    problems = {
        "lacks": sorted(key for key in missing if not key.startswith("pooler.")),
        "has other shapes for": sorted(str(item) for item in info["mismatched_keys"]),
        "has unknown": sorted(key for key in info["unexpected_keys"] if not key.startswith(_HEADS)),
    }
    for what, keys in problems.items():
        if keys:
            raise InvalidArgumentError(f"{name} {what} {len(keys)} weights, {keys[0]} for one")
    return model.eval(), missing, str(getattr(config, "_commit_hash", None) or "")


def processor(name: str, revision: str | None) -> Mapping[str, Any] | None:
    """What preprocessor_config.json of the checkpoint says; None where there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    pinned: dict[str, Any] = {} if revision is None else {"revision": revision}
    where = _where(name)
    if Path(where).is_dir() and not any(
        (Path(where) / file).is_file() for file in ("preprocessor_config.json", "processor_config.json")
    ):
        return None
    with _quiet(), _told(name):
        found: Mapping[str, Any] = ImageProcessingMixin.get_image_processor_dict(where, **pinned)[0]
    return found


def describe(
    model: nn.Module,
    source: pb.Source,
    options: Options,
    *,
    processor: Mapping[str, Any] | None,
    untrained: frozenset[str] = frozenset(),
) -> Loaded:
    """Everything about a `ViTModel`.

    Raises:
        InvalidArgumentError: an output asked for is unknown or untrained, or the checkpoint's preprocessing
            cannot be honoured.
    """
    config: Any = model.config
    image, patch = _pair(config.image_size), _pair(config.patch_size)
    rows, columns = image[0] // patch[0], image[1] // patch[1]
    pooled = getattr(model, "pooler", None) is not None
    outputs = _outputs(rows * columns, config.hidden_size, pooled, trained=not untrained)
    told, undecided = None, ""
    if config.num_channels == 3:
        told, undecided = preprocessing_of(processor, source.reference)
    return Loaded(
        module=model,
        compute=_compute,
        input=pixel_input(channels=config.num_channels, height=image[0], width=image[1]),
        outputs=chosen(outputs, options),
        architecture=sizes_of(
            model, image=image, patch=patch, channels=config.num_channels, width=config.hidden_size
        ),
        source=source,
        preprocessing=told,
        embedding=embedding_tensors(model),
        undecided=undecided,
    )


def preprocessing_of(told: Mapping[str, Any] | None, where: str) -> tuple[pb.Preprocessing | None, str]:
    """What a checkpoint's pictures go through, or why that is not known."""
    if told is None:
        why = f"{where} has no {preprocessor_config.FILE}"
    else:
        try:
            return preprocessor_config.read(told), ""
        except InvalidArgumentError as error:
            why = f"{where}: {error}"
    return (
        None,
        f"{why}: --preprocessing FILE.json says what its pictures go through, none that there are none",
    )


def embedding_tensors(model: nn.Module) -> dict[str, Array]:
    """Projection, CLS token and positions of a `ViTModel`, under the names of embedding.safetensors."""
    layers: Any = model.embeddings
    state = {key: value.detach().cpu().numpy() for key, value in layers.state_dict().items()}
    tensors = {
        "projection.weight": state["patch_embeddings.projection.weight"],
        "projection.bias": state["patch_embeddings.projection.bias"],
        "cls_token": state["cls_token"][0, 0],
        "position_embedding": state["position_embeddings"][0],
    }
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def reference(name: str) -> str:
    """How a checkpoint is called in a spec: a folder by its last part, which is the same on every machine."""
    where = _where(name)
    return Path(where).resolve().name if Path(where).is_dir() else where


def _outputs(patches: int, width: int, pooled: bool, *, trained: bool) -> Sequence[pb.Output]:
    tokens = axes(batch=0, token=patches + 1, feature=width)
    cls = [pb.PREFIX_TOKEN_CLS]
    known = [
        float_output(
            "last_hidden_state",
            tokens,
            prefix=cls,
            image_dependent_prefix=True,
            meaning="tokens after the encoder and its last LayerNorm",
        ),
        float_output(
            "patch_embeddings",
            axes(batch=0, token=patches, feature=width),
            meaning="one token per patch in row-major order, before any position embedding",
        ),
        float_output(
            "embeddings",
            tokens,
            prefix=cls,
            meaning="CLS token and patch tokens with their positions: what the encoder takes",
        ),
    ]
    if pooled:
        meaning = "the CLS token of last_hidden_state through the pooler's dense layer and activation"
        shape = axes(batch=0, feature=width)
        known.append(float_output("pooler_output", shape, meaning=meaning, trained=trained))
    return known


def _compute(model: nn.Module, rows: Tensor) -> Mapping[str, Tensor]:
    """One pass of the library's own forward; what flows through it on the way is looked at by hooks."""
    seen: dict[str, Tensor] = {}
    inner: Any = model.embeddings
    places = {"patch_embeddings": inner.patch_embeddings, "embeddings": inner}
    handles = [
        place.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
        for name, place in places.items()
    ]
    try:
        with _without_mask(model):
            found = model(pixel_values=rows)
    finally:
        for handle in handles:
            handle.remove()
    outputs = {"last_hidden_state": found.last_hidden_state, **seen}
    if found.pooler_output is not None:
        outputs["pooler_output"] = found.pooler_output
    return outputs


@contextmanager
def _without_mask(model: Any) -> Iterator[None]:
    """While torch traces, transformers' sdpa attention without the mask of ones it would make up.

    Run eagerly transformers leaves that mask out by itself; a trace would drag it into every layer.
    """
    if not torch.compiler.is_exporting():
        yield
        return
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(_UNMASKED, sdpa_attention_forward)
    AttentionMaskInterface.register(_UNMASKED, _no_mask)
    own = model.config._attn_implementation
    model.set_attn_implementation(_UNMASKED)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def _no_mask(*_: Any, **__: Any) -> None:
    """No mask: every token sees every other."""


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


def _where(name: str) -> str:
    where = name.removeprefix(PREFIX)
    if not where:
        raise InvalidArgumentError(f"{PREFIX} needs a name or a folder behind it")
    if not Path(where).is_dir() and (where.count("/") > 1 or where.startswith((".", "/", "~"))):
        raise InvalidArgumentError(f"there is no folder {where}")
    return where


@contextmanager
def _quiet() -> Iterator[None]:
    """Transformers' load reports and progress bars say nothing that is not told here in words."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Says in one line what transformers could not load."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first = " ".join(str(error).split()) or type(error).__name__
        raise InvalidArgumentError(f"{name} cannot be loaded: {first[:300]}") from error
