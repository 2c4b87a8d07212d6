"""Google's checkpoints, bit for bit against timm's own reader of them: `make test-timm`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import google_checkpoints as google_files
import pytest
import torch
from google_checkpoints import DEPTH, HEADS, HIDDEN, LAYOUTS, PATCH, SIDE, WIDTH, Layout
from torch import Tensor, nn

from vitral_export.loaded import Options
from vitral_export.sources import load

pytest.importorskip("timm", reason="timm is not installed: make test-timm", exc_type=ImportError)


def timms(layout: Layout, path: Path) -> Any:
    """The file as timm reads it, into a model with Flax's GELU."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=SIDE,
        patch_size=PATCH,
        num_classes=0,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=HIDDEN / WIDTH,
        class_token=layout.cls,
        no_embed_class=layout.big_vision,
        global_pool="map" if layout.map_head else "token" if layout.cls else "avg",
        fc_norm=False,
        act_layer=partial(nn.GELU, approximate="tanh"),
    )
    model.load_pretrained(str(path))
    return model.eval()


def ours(model: Any, layout: Layout) -> dict[str, Tensor]:
    """The weights of a module of transformers under timm's names, q, k and v in one."""
    inner, cls = model.embeddings, layout.cls
    stem = inner.patch_embeddings.projection if cls else inner.patch_embedding
    norm = model.layernorm if cls else model.post_layernorm
    found = {**_of(stem, "patch_embed.proj"), **_of(norm, "norm")}
    positions = inner.position_embeddings if cls else inner.position_embedding.weight[None]
    found["pos_embed"] = positions[:, 1:] if cls and layout.big_vision else positions
    if cls:
        found["cls_token"] = inner.cls_token
    for index, layer in enumerate(model.layers if cls else model.encoder.layers):
        attention = layer.attention if cls else layer.self_attn
        joined = {"weight": [], "bias": []}  # type: ignore[var-annotated]
        for part in (attention.q_proj, attention.k_proj, attention.v_proj):
            joined["weight"].append(part.weight)
            joined["bias"].append(part.bias)
        parts = {
            "norm1": layer.layernorm_before if cls else layer.layer_norm1,
            "attn.proj": attention.o_proj if cls else attention.out_proj,
            "norm2": layer.layernorm_after if cls else layer.layer_norm2,
            "mlp.fc1": layer.mlp.fc1,
            "mlp.fc2": layer.mlp.fc2,
        }
        for name, part in parts.items():
            found |= _of(part, f"blocks.{index}.{name}")
        found |= {f"blocks.{index}.attn.qkv.{name}": torch.cat(part) for name, part in joined.items()}
    if layout.map_head:
        found |= _head(model.head)
    return found


def _head(head: Any) -> dict[str, Tensor]:
    found = {"attn_pool.latent": head.probe}
    for kind in ("weight", "bias"):
        whole = getattr(head.attention, f"in_proj_{kind}")
        found |= {f"attn_pool.q.{kind}": whole[:WIDTH], f"attn_pool.kv.{kind}": whole[WIDTH:]}
    parts = {
        "proj": head.attention.out_proj,
        "norm": head.layernorm,
        "mlp.fc1": head.mlp.fc1,
        "mlp.fc2": head.mlp.fc2,
    }
    for name, part in parts.items():
        found |= _of(part, f"attn_pool.{name}")
    return found


def _of(layer: Any, name: str) -> dict[str, Tensor]:
    return {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}


@pytest.mark.parametrize("name", LAYOUTS)
def test_timm_reads_the_same_weights_bit_for_bit(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    path = google_files.save(tmp_path / "file.npz", google_files.arrays(layout))
    theirs = timms(layout, path)
    loaded = load(f"npz:{path}", Options(jax_exact=True))
    mine, its = ours(loaded.module, layout), theirs.state_dict()
    assert mine.keys() == its.keys()
    assert [key for key in its if not torch.equal(mine[key], its[key])] == []
    images = torch.from_numpy(google_files.images(2))
    with torch.no_grad():
        found = loaded.compute(loaded.module, images)
        tokens = theirs.forward_features(images)
    assert torch.allclose(found["last_hidden_state"], tokens, rtol=0, atol=2e-6)
    if layout.map_head:
        with torch.no_grad():
            pooled = theirs.forward_head(tokens, pre_logits=True)
        assert torch.allclose(found["pooler_output"], pooled, rtol=0, atol=2e-6)
