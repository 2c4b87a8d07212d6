"""Small checkpoints as Google's projects write them, and what they compute, in NumPy from the names alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Wide = NDArray[np.float64]

WIDTH, HEADS, HIDDEN, DEPTH, PATCH, GRID = 24, 3, 40, 2, 4, 3
SIDE = PATCH * GRID


@dataclass(frozen=True)
class Layout:
    """How a checkpoint is written.

    Attributes:
        prefix: what all names begin with.
        big_vision: big_vision's names, else vision_transformer's.
        stacked: one array for all blocks.
        cls: a CLS token, with a position in vision_transformer only.
        pre_logits: width of the representation layer, 0 for none.
        map_head: big_vision's attention pooling.
        beside: other things in the file, which are no parameters of the image model.
    """

    prefix: str = ""
    big_vision: bool = False
    stacked: bool = False
    cls: bool = True
    pre_logits: int = 0
    map_head: bool = False
    beside: tuple[str, ...] = ()


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "augreg": Layout(),
        "in21k": Layout(pre_logits=20),
        "optimizer": Layout(
            prefix="opt/target/", pre_logits=WIDTH, beside=("opt/state/step", "opt/state/param_states/cls")
        ),
        "params": Layout(prefix="params/", big_vision=True, beside=("opt/0/count",)),
        "stacked": Layout(prefix="params/", big_vision=True, stacked=True, pre_logits=WIDTH),
        "gap": Layout(big_vision=True, cls=False),
        "siglip": Layout(
            prefix="params/img/",
            big_vision=True,
            stacked=True,
            cls=False,
            map_head=True,
            beside=("params/txt/head/kernel", "params/t", "params/b"),
        ),
    }
)
"""Those there are."""


def _block(layout: Layout) -> dict[str, tuple[int, ...]]:
    attention, second, mlp = (0, 1, 0) if layout.big_vision else (1, 2, 3)
    return {
        **_norm("LayerNorm_0"),
        **_attention(f"MultiHeadDotProductAttention_{attention}"),
        **_norm(f"LayerNorm_{second}"),
        **_mlp(f"MlpBlock_{mlp}"),
    }


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}/scale": (WIDTH,), f"{name}/bias": (WIDTH,)}


def _dense(name: str, taken: int, given: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": (taken, given), f"{name}/bias": (given,)}


def _mlp(name: str) -> dict[str, tuple[int, ...]]:
    return {**_dense(f"{name}/Dense_0", WIDTH, HIDDEN), **_dense(f"{name}/Dense_1", HIDDEN, WIDTH)}


def _attention(name: str) -> dict[str, tuple[int, ...]]:
    each = WIDTH // HEADS
    found: dict[str, tuple[int, ...]] = {}
    for part in ("query", "key", "value"):
        found |= {f"{name}/{part}/kernel": (WIDTH, HEADS, each), f"{name}/{part}/bias": (HEADS, each)}
    return found | {f"{name}/out/kernel": (HEADS, each, WIDTH), f"{name}/out/bias": (WIDTH,)}


def shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Every name of a checkpoint, prefix left out, and its shape."""
    found: dict[str, tuple[int, ...]] = {
        "embedding/kernel": (PATCH, PATCH, 3, WIDTH),
        "embedding/bias": (WIDTH,),
        **_norm("Transformer/encoder_norm"),
        **_dense("head", layout.pre_logits or WIDTH, 5),
    }
    positions = "pos_embedding" if layout.big_vision else "Transformer/posembed_input/pos_embedding"
    found[positions] = (1, GRID**2 + (layout.cls and not layout.big_vision), WIDTH)
    if layout.cls:
        found["cls"] = (1, 1, WIDTH)
    if layout.pre_logits:
        found |= _dense("pre_logits", WIDTH, layout.pre_logits)
    if layout.map_head:
        head = {
            "probe": (1, 1, WIDTH),
            **_attention("MultiHeadDotProductAttention_0"),
            **_norm("LayerNorm_0"),
            **_mlp("MlpBlock_0"),
        }
        found |= {f"MAPHead_0/{name}": shape for name, shape in head.items()}
    block = _block(layout)
    if layout.stacked:
        found |= {f"Transformer/encoderblock/{name}": (DEPTH, *shape) for name, shape in block.items()}
    for index in range(0 if layout.stacked else DEPTH):
        found |= {f"Transformer/encoderblock_{index}/{name}": shape for name, shape in block.items()}
    return found


def arrays(layout: Layout) -> Arrays:
    """A checkpoint whose biases and scales are not zeros and ones either, as if it had been trained."""
    random = np.random.default_rng(7)
    found: Arrays = {}
    for name, shape in shapes(layout).items():
        values = random.standard_normal(shape).astype(np.float32)
        if name.endswith("kernel"):
            values *= 2 / math.sqrt(max(shape))
        found[layout.prefix + name] = values * np.float32(0.3) + np.float32(name.endswith("scale"))
    return found | {name: np.ones(3, np.float32) for name in layout.beside}


def save(path: Path, held: Mapping[str, Any]) -> Path:
    """Writes a checkpoint with the names in the arrays' own order."""
    np.savez(path, **held)
    return path


def images(count: int) -> NDArray[np.float32]:
    """Random images (B, C, H, W)."""
    return np.random.default_rng(3).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


@dataclass(frozen=True)
class Flax:
    """A forward pass in Flax's layout: (B, H, W, C) images, kernels input first, heads apart.

    Attributes:
        held: the arrays of a checkpoint, prefix left out.
        epsilon: of every LayerNorm.
        tanh: GELU by tanh, else by erf.
    """

    held: Mapping[str, Wide]
    epsilon: float
    tanh: bool

    def outputs(self, pixel_values: NDArray[np.float32]) -> dict[str, Wide]:
        """Every output by its name, of images (B, C, H, W)."""
        held = self.held
        rows = pixel_values.astype(np.float64).transpose(0, 2, 3, 1)  # B C H W -> B H W C
        count = len(rows)
        cut = rows.reshape(count, GRID, PATCH, GRID, PATCH, 3)
        x = np.einsum("bipjqc,pqcd->bijd", cut, held["embedding/kernel"]) + held["embedding/bias"]
        x = patches = x.reshape(count, GRID**2, WIDTH)
        big_vision = "pos_embedding" in held
        if big_vision:
            x = x + held["pos_embedding"]
        if "cls" in held:
            x = np.concatenate([np.repeat(held["cls"], count, axis=0), x], axis=1)
        if not big_vision:
            x = x + held["Transformer/posembed_input/pos_embedding"]
        found = {"patch_embeddings": patches, "embeddings": x}
        for index in range(DEPTH):
            x = self._block(x, index, *(("0", "1", "0") if big_vision else ("1", "2", "3")))
        x = found["last_hidden_state"] = self._norm(x, "Transformer/encoder_norm")
        if "pre_logits/kernel" in held:
            found["pooler_output"] = np.tanh(self._dense(x[:, 0], "pre_logits"))
        if "MAPHead_0/probe" in held:
            found["pooler_output"] = self._pooled(x)
        return found

    def _pooled(self, x: Wide) -> Wide:
        probe = np.repeat(self.held["MAPHead_0/probe"], len(x), axis=0)
        y = self._attention(probe, x, "MAPHead_0/MultiHeadDotProductAttention_0")
        normed = self._norm(y, "MAPHead_0/LayerNorm_0")
        return np.asarray((y + self._mlp(normed, "MAPHead_0/MlpBlock_0"))[:, 0])

    def _block(self, x: Wide, index: int, attention: str, second: str, mlp: str) -> Wide:
        name = f"Transformer/encoderblock_{index}"
        one = self
        if "Transformer/encoderblock/LayerNorm_0/scale" in self.held:
            name = "Transformer/encoderblock"
            mine = {key: part[index] for key, part in self.held.items() if key.startswith(name + "/")}
            one = Flax(mine, self.epsilon, self.tanh)
        y = one._norm(x, f"{name}/LayerNorm_0")
        x = x + one._attention(y, y, f"{name}/MultiHeadDotProductAttention_{attention}")
        return x + one._mlp(one._norm(x, f"{name}/LayerNorm_{second}"), f"{name}/MlpBlock_{mlp}")

    def _attention(self, asking: Wide, asked: Wide, name: str) -> Wide:
        query, key, value = (
            np.einsum("bnd,dhk->bnhk", x, self.held[f"{name}/{part}/kernel"])
            + self.held[f"{name}/{part}/bias"]
            for x, part in ((asking, "query"), (asked, "key"), (asked, "value"))
        )
        scores = np.einsum("bqhk,bmhk->bhqm", query, key) / math.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("bhqm,bmhk->bqhk", weights, value)
        out = np.einsum("bqhk,hkd->bqd", mixed, self.held[f"{name}/out/kernel"])
        return np.asarray(out + self.held[f"{name}/out/bias"])

    def _dense(self, x: Wide, name: str) -> Wide:
        return np.asarray(x @ self.held[f"{name}/kernel"] + self.held[f"{name}/bias"])

    def _mlp(self, x: Wide, name: str) -> Wide:
        x = self._dense(x, f"{name}/Dense_0")
        if self.tanh:
            x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        else:
            x = 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return self._dense(x, f"{name}/Dense_1")

    def _norm(self, x: Wide, name: str) -> Wide:
        mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
        normal = (x - mean) / np.sqrt(variance + self.epsilon)
        return np.asarray(normal * self.held[f"{name}/scale"] + self.held[f"{name}/bias"])


def flax(layout: Layout, held: Arrays, *, exact: bool) -> Flax:
    """The forward pass of a checkpoint: Flax's own where `exact`, else with transformers' constants."""
    names = shapes(layout)
    wide = {name: held[layout.prefix + name].astype(np.float64) for name in names}
    return Flax(wide, 1e-6, tanh=True) if exact or not layout.cls else Flax(wide, 1e-12, tanh=False)
