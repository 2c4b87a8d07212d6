"""Checkpoints of Hugging Face of no known family: tried through AutoModel, then proven or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitral import spec as specs
from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral_export import hub
from vitral_export.attention import unmasked
from vitral_export.families import loading, own, preprocessed
from vitral_export.hub import Checkpoint
from vitral_export.loaded import Loaded, Options, chosen, left_out, pixel_input, sizes_of

_INPUT = "pixel_values"
_OUTPUTS = ("last_hidden_state", "pooler_output")
_POOLER = "pooler."
_UNUSED = ("classifier.", "cls_classifier.", "distillation_classifier.", "decoder.", "head.", "lm_head.")
_UNUSED_LEAVES = ("mask_token", "position_ids", "relative_position_index", "num_batches_tracked")


def load(
    found: Checkpoint, source: pb.Source, options: Options, *, processor: Mapping[str, Any] | None
) -> Loaded:
    """The plain model of a checkpoint, what it gives found by running it.

    Raises:
        InvalidArgumentError: the checkpoint is incomplete, or has weights that the model does not know, or
            the model does not take images.
        UnsupportedError: transformers has no plain model of images for it.
    """
    cls, config = _class(found)
    model, missing = loading.load(
        found, cls, config, may_lack=lambda key: key.startswith(_POOLER), may_have=_is_unused
    )
    return describe(model, source, options, processor=processor, untrained=frozenset(missing))


def describe(
    model: nn.Module,
    source: pb.Source,
    options: Options,
    *,
    processor: Mapping[str, Any] | None,
    untrained: frozenset[str] = frozenset(),
) -> Loaded:
    """Everything about a model of images, found by running it.

    Sizes are those of the options, else of the config; of the image, else what its processor gives.

    Raises:
        InvalidArgumentError: it does not take images of these sizes, or it is not known which.
        UnsupportedError: it gives something else than float32 tensors.
    """
    channels = own.size_of(model, "in_channels", options) or 3
    told, undecided = None, ""
    if channels == 3:
        told, undecided = preprocessed.of(processor, source.reference)
    size = own.size_of(model, "img_size", options) or _given(told, source.reference)
    patch = own.size_of(model, "patch_size", options) or size
    if size % patch:
        raise InvalidArgumentError(f"img_size {size} is not a multiple of patch_size {patch}")
    found = own.tried(model, _compute, (channels, size, size), options)
    known = own.outputs_of(found, (size // patch) ** 2, options.prefix_tokens)
    for item in known:
        item.trained = not (untrained and item.name == "pooler_output")
    outputs = chosen(known, options)
    width = outputs[0].axes[-1].size
    return Loaded(
        module=model,
        compute=_compute,
        input=pixel_input(channels=channels, height=size, width=size),
        outputs=outputs,
        left_out=left_out(known, options),
        architecture=sizes_of(
            model, image=(size, size), patch=(patch, patch), channels=channels, width=width
        ),
        source=source,
        preprocessing=told,
        embedding=own.projection_of(model, patch, channels),
        undecided=undecided,
    )


def _class(found: Checkpoint) -> tuple[Any, Any]:
    """The class that AutoModel would make, and its config. Code of the checkpoint's own is never run."""
    from transformers import AutoConfig, AutoModel

    with hub.quiet(), hub.told(found.name):
        config = AutoConfig.from_pretrained(found.folder, trust_remote_code=False)
    kind = config.model_type
    if type(config) not in AutoModel._model_mapping:
        raise UnsupportedError(f"{found.name} is a {kind} model, of which transformers has no plain model")
    cls = AutoModel._model_mapping[type(config)]
    cls = cls[0] if isinstance(cls, tuple) else cls
    if cls.main_input_name != _INPUT:
        raise UnsupportedError(
            f"{found.name} is a {kind} model, which takes {cls.main_input_name}, no images"
        )
    return cls, config


def _given(told: pb.Preprocessing | None, name: str) -> int:
    size = None if told is None else specs.input_size(told)
    if size is None or size.height != size.width:
        raise InvalidArgumentError(f"{name} does not say the size of its images: --img-size does")
    return int(size.height)


def _compute(model: nn.Module, rows: Tensor) -> Mapping[str, Tensor]:
    with unmasked(model):
        found = model(pixel_values=rows, return_dict=True)
    given = {name: getattr(found, name, None) for name in _OUTPUTS}
    return {name: tensor for name, tensor in given.items() if isinstance(tensor, Tensor)}


def _is_unused(key: str) -> bool:
    return key.startswith(_UNUSED) or key.endswith(_UNUSED_LEAVES)
