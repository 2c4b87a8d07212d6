"""Google's ViT checkpoints: `npz:FILE`, put into the modules that transformers has for them.

Each weight of the module is seen in the file's own layout (kernels input first, heads apart, patches
height x width x channel), and takes the array whose name and shape it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral_export import contract as contracts
from vitral_export import flax_checkpoint, flax_layout
from vitral_export.families import hugging_face
from vitral_export.flax_checkpoint import PROJECTION, Archive
from vitral_export.flax_layout import BLOCK, MAP_HEAD, Sizes
from vitral_export.loaded import Loaded, Options, source_of
from vitral_export.modules.sizes import MOST

SUMMARY = "a checkpoint of Google's vision_transformer or big_vision; --jax-exact computes as they do"
"""What such a source is, in one line."""

_EXACT: Mapping[str, Any] = {"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"}
_UNUSED = ("head/kernel", "head/bias")  # the classifier, which no output comes from
_POOLER = frozenset({"pooler.dense.weight", "pooler.dense.bias"})
_NAMED = ("img_size", "patch_size", "in_channels", "embed_dim", "weights", "revision", "prefix_tokens")


def load(name: str, options: Options) -> Loaded:
    """The model of `npz:FILE`, its sizes read from the arrays.

    Raises:
        InvalidArgumentError: there is no such checkpoint, or arrays are missing, unknown or misshapen.
        UnsupportedError: a ResNet makes its patches.
    """
    options.refuse(name, _NAMED)
    archive = flax_checkpoint.find(name)
    sizes = flax_layout.read(archive)
    model = read(archive, sizes, exact=options.jax_exact)
    source = source_of(
        "npz",
        archive.file.name,
        weights=pb.WEIGHTS_ORIGIN_CHECKPOINT,
        note=f"weights of {archive.file.name}, {_semantics(model.config)}",
        libraries=["transformers"],
    )
    source.weights_sha256 = archive.sha256()
    untrained = _POOLER if sizes.cls and sizes.pooled is None else frozenset[str]()
    loaded = hugging_face.describe(model, source, options, processor=None, untrained=untrained)
    side = sizes.grid * sizes.patch
    own = contracts.google_tf(side, side) if sizes.channels == 3 else None
    return replace(loaded, preprocessing=own, undecided="")


def read(archive: Archive, sizes: Sizes, *, exact: bool) -> Any:
    """The module with the weights of an archive; with the arithmetic of Flax where `exact`.

    Raises:
        InvalidArgumentError: see `load`.
    """
    with torch.device("meta"):
        _check(archive, sizes, _model(sizes, exact=exact))
    model = _model(sizes, exact=exact).eval()
    with torch.no_grad():
        if sizes.cls and not sizes.cls_position:  # big_vision adds positions before the CLS token is there
            model.embeddings.position_embeddings[:, 0] = 0
        for key, place in _places(model, sizes).items():
            array = torch.from_numpy(archive.read(key))
            for view, part in zip(place.views, array if place.stacked else [array], strict=True):
                view.copy_(part)
    return model


def _semantics(config: Any) -> str:
    """What the arithmetic around the weights is, and whose."""
    exact = all(getattr(config, key) == value for key, value in _EXACT.items())
    whose = "the checkpoint's own" if exact else "transformers'"
    form = "tanh" if config.hidden_act.endswith("tanh") else "erf"
    return f"{whose} LayerNorm eps {config.layer_norm_eps:g} and {form} GELU"


def _model(sizes: Sizes, *, exact: bool) -> Any:
    """The module of these sizes: a ViTModel; without CLS token SigLIP's, which is big_vision's model."""
    from transformers import SiglipVisionConfig, SiglipVisionModel, ViTConfig, ViTModel

    common = {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.hidden,
        "image_size": sizes.grid * sizes.patch,
        "patch_size": sizes.patch,
        "num_channels": sizes.channels,
        **(_EXACT if exact else {}),
    }
    if sizes.cls:
        return ViTModel(ViTConfig(pooler_output_size=sizes.pooled, **common))
    return SiglipVisionModel(SiglipVisionConfig(vision_use_head=sizes.attention_pooled, **common))


@dataclass(frozen=True)
class _Place:
    """Where an array goes: weights in the array's own layout; several where blocks are stacked in it."""

    views: tuple[Tensor, ...]
    stacked: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        one = tuple(self.views[0].shape)
        return (len(self.views), *one) if self.stacked else one


def _check(archive: Archive, sizes: Sizes, model: nn.Module) -> None:
    """Refuses arrays that are missing, left over, or of another shape, before any of them is read."""
    name, shapes = archive.name, archive.shapes
    for key, parameter in model.named_parameters():
        if parameter.numel() > MOST:
            raise InvalidArgumentError(
                f"{name}: {key} would have {parameter.numel()} values, the most is {MOST}"
            )
    places = _places(model, sizes)
    flax_layout.refuse(name, "lacks", [key for key in places if key not in shapes])
    unknown = [key for key in shapes if key not in places and key not in _UNUSED]
    flax_layout.refuse(name, "has unknown", unknown)
    other = [
        f"{key} ({shapes[key]} for {place.shape})"
        for key, place in places.items()
        if shapes[key] != place.shape
    ]
    flax_layout.refuse(name, "has another shape for", other)


def _places(model: Any, sizes: Sizes) -> dict[str, _Place]:
    """The weights of a model, by the names of the arrays they take."""
    found = {key: _Place((view,)) for key, view in _around(model, sizes).items()}
    layers = model.layers if sizes.cls else model.encoder.layers
    blocks = [_block(layer, sizes) for layer in layers]
    if sizes.stacked:
        for key in blocks[0]:
            found[f"{BLOCK}/{key}"] = _Place(tuple(block[key] for block in blocks), stacked=True)
    else:
        for index, block in enumerate(blocks):
            found |= {f"{BLOCK}_{index}/{key}": _Place((view,)) for key, view in block.items()}
    return found


def _around(model: Any, sizes: Sizes) -> dict[str, Tensor]:
    """Everything but the blocks."""
    inner = model.embeddings
    if not sizes.cls:
        return {
            **_stem(inner.patch_embedding),
            sizes.layout.positions: inner.position_embedding.weight[None],
            **_under("Transformer/encoder_norm", _norm(model.post_layernorm)),
            **(_under(MAP_HEAD, _head(model.head, sizes.heads)) if sizes.attention_pooled else {}),
        }
    return {
        **_stem(inner.patch_embeddings.projection),
        "cls": inner.cls_token,
        sizes.layout.positions: inner.position_embeddings[:, 0 if sizes.cls_position else 1 :],
        **_under("Transformer/encoder_norm", _norm(model.layernorm)),
        **(_under("pre_logits", _dense(model.pooler.dense)) if sizes.pooled else {}),
    }


def _block(layer: Any, sizes: Sizes) -> dict[str, Tensor]:
    if sizes.cls:
        before, after, attention = layer.layernorm_before, layer.layernorm_after, layer.attention
        out = attention.o_proj
    else:
        before, after, attention = layer.layer_norm1, layer.layer_norm2, layer.self_attn
        out = attention.out_proj
    inputs = [attention.q_proj, attention.k_proj, attention.v_proj]
    weights, biases = [part.weight for part in inputs], [part.bias for part in inputs]
    return {
        **_under("LayerNorm_0", _norm(before)),
        **_under(sizes.layout.attention, _attention(weights, biases, out, sizes.heads)),
        **_under(sizes.layout.norm, _norm(after)),
        **_under(sizes.layout.mlp, _mlp(layer.mlp)),
    }


def _head(head: Any, heads: int) -> dict[str, Tensor]:
    """The MAP head, whose three projections torch keeps in one."""
    weights, biases = (part.chunk(3) for part in (head.attention.in_proj_weight, head.attention.in_proj_bias))
    attention = _attention(weights, biases, head.attention.out_proj, heads)
    return {
        "probe": head.probe,
        **_under("MultiHeadDotProductAttention_0", attention),
        **_under("LayerNorm_0", _norm(head.layernorm)),
        **_under("MlpBlock_0", _mlp(head.mlp)),
    }


def _attention(
    weights: Sequence[Tensor], biases: Sequence[Tensor], out: Any, heads: int
) -> dict[str, Tensor]:
    apart = (heads, -1)
    found = {"out/kernel": torch.unflatten(out.weight.T, 0, apart), "out/bias": out.bias}  # D H*d -> H d D
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        found[f"{name}/kernel"] = torch.unflatten(weight.T, 1, apart)  # H*d D -> D H d
        found[f"{name}/bias"] = torch.unflatten(bias, 0, apart)  # H*d -> H d
    return found


def _stem(layer: nn.Conv2d) -> dict[str, Tensor]:
    assert layer.bias is not None
    return {PROJECTION: layer.weight.permute(2, 3, 1, 0), "embedding/bias": layer.bias}  # OIHW -> HWIO


def _mlp(layers: Any) -> dict[str, Tensor]:
    return {**_under("Dense_0", _dense(layers.fc1)), **_under("Dense_1", _dense(layers.fc2))}


def _dense(layer: nn.Linear) -> dict[str, Tensor]:
    return {"kernel": layer.weight.T, "bias": layer.bias}


def _norm(layer: Any) -> dict[str, Tensor]:
    return {"scale": layer.weight, "bias": layer.bias}


def _under(name: str, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}/{key}": view for key, view in views.items()}
