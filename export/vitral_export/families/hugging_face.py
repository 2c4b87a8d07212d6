"""Hugging Face ViT checkpoints: `hf:NAME_OR_FOLDER`, loaded by transformers itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_export import checkpoint, hub, preprocessor_config
from vitral_export.attention import unmasked
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
from vitral_export.modules.sizes import MOST

SUMMARY = "a Hugging Face ViT: a folder, or a name in the hub or its local cache"
"""What such a source is, in one line."""

FAMILIES: Mapping[str, str] = {"vit": "ViTModel"}
"""Model types that are known, and their classes in transformers."""

_HEADS = ("classifier.", "decoder.")
_SHOWN = 5  # weights that a message names


def load(name: str, options: Options) -> Loaded:
    """The model of `hf:NAME`, everything about it read from the checkpoint.

    Raises:
        InvalidArgumentError: there is no such checkpoint, or it is incomplete, or has pickled weights only.
        UnsupportedError: the checkpoint is of another family.
    """
    options.refuse(name, ["img_size", "patch_size", "in_channels", "embed_dim", "weights", "prefix_tokens"])
    found = hub.find(name, options.revision)
    model, missing = read(found)
    return describe(model, source(found, "hf"), options, processor=processor(found), untrained=missing)


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


def read(found: Checkpoint) -> tuple[nn.Module, frozenset[str]]:
    """The model, and the names of the parameters that the checkpoint lacks: the pooler's at most.

    Raises:
        InvalidArgumentError: see `load`.
        UnsupportedError: see `load`.
    """
    kind = found.config().get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        said = f"a {kind} model" if isinstance(kind, str) else "of no model_type"
        raise UnsupportedError(f"{found.name} is {said}; known are {', '.join(FAMILIES)}")
    hub.check_files(found)
    import transformers

    cls = getattr(transformers, FAMILIES[kind])
    with hub.quiet(), hub.told(found.name):
        config = cls.config_class.from_pretrained(found.folder)
        with torch.device("meta"):
            _check_sizes(found.name, cls(config))
        model, info = cls.from_pretrained(
            found.folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    _check_keys(found.name, info)
    return model.eval(), frozenset(map(str, info["missing_keys"]))


def _check_sizes(name: str, model: nn.Module) -> None:
    """Refuses a config whose model no memory could hold, before any of it is made."""
    for key, parameter in model.named_parameters():
        if parameter.numel() > MOST:
            raise InvalidArgumentError(
                f"{name}: {key} would have {parameter.numel()} values, the most is {MOST}"
            )


def _check_keys(name: str, info: Mapping[str, Any]) -> None:
    problems = {
        "lacks": sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")),
        "has another shape for": sorted(
            f"{key} ({tuple(its)} for {tuple(own)})" for key, its, own in info["mismatched_keys"]
        ),
        "has unknown": sorted(key for key in info["unexpected_keys"] if not _is_no_part(key)),
    }
    for what, keys in problems.items():
        if keys:
            more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            raise InvalidArgumentError(f"{name} {what} {', '.join(keys[:_SHOWN])}{more}")


def _is_no_part(key: str) -> bool:
    """Whether a weight belongs to a head, or to training with masked patches, which no output comes from."""
    return key.startswith(_HEADS) or key.endswith("embeddings.mask_token")


def processor(found: Checkpoint) -> Mapping[str, Any] | None:
    """What preprocessor_config.json of the checkpoint says; None where there is none."""
    if not found.has_preprocessor:
        return None
    from transformers.image_processing_base import ImageProcessingMixin

    with hub.quiet(), hub.told(found.name):
        said: Mapping[str, Any] = ImageProcessingMixin.get_image_processor_dict(found.folder)[0]
    return said


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
    outputs = [*_token_outputs(rows * columns, config.hidden_size)]
    if (pooler := getattr(model, "pooler", None)) is not None:
        outputs.append(_pooled_output(pooler.dense.out_features, trained=not untrained))
    told, undecided = None, ""
    if config.num_channels == 3:
        told, undecided = preprocessing_of(processor, source.reference)
    return Loaded(
        module=model,
        compute=_compute,
        input=pixel_input(channels=config.num_channels, height=image[0], width=image[1]),
        outputs=chosen(outputs, options),
        left_out=left_out(outputs, options),
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


def _token_outputs(patches: int, width: int) -> Sequence[pb.Output]:
    tokens = axes(batch=0, token=patches + 1, feature=width)
    cls = [pb.PREFIX_TOKEN_CLS]
    return (
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
    )


def _pooled_output(width: int, *, trained: bool) -> pb.Output:
    meaning = "the CLS token of last_hidden_state through the pooler's dense layer and activation"
    return float_output("pooler_output", axes(batch=0, feature=width), meaning=meaning, trained=trained)


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
        with unmasked(model):
            found = model(pixel_values=rows, return_dict=True)
    finally:
        for handle in handles:
            handle.remove()
    outputs = {"last_hidden_state": found.last_hidden_state, **seen}
    if found.pooler_output is not None:
        outputs["pooler_output"] = found.pooler_output
    return outputs


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise InvalidArgumentError(f"a size has height and width, not {list(value)}")
    return int(value[0]), int(value[1])
