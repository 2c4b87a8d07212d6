"""How far fast decoding moves the answers: relative L2, and whether nearest neighbours stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import ViTConfig, ViTModel

from vitral_engine.engine import Model

Ways = Mapping[str, Callable[[bytes], NDArray[np.uint8]]]
"""Name of a way of decoding to the pixels, of the model's size, that it gives; `exact` is one of them."""


@dataclass(frozen=True)
class Drift:
    """One way of decoding against the exact one, over a set of pictures.

    Attributes:
        levels: mean absolute difference of the pixels that go into the model, in levels.
        median, most: relative L2 at the default output.
        cls_median, cls_most: the same at the CLS token of a ViT-S/16 of random weights.
        agreement: share of pictures whose nearest neighbour by their mean patch embedding stays the same,
            where the whole set is decoded that way.
        mixed: the same where only the picture that is looked for is decoded that way.
        cls_agreement: as `agreement`, by the CLS token.
    """

    levels: float
    median: float
    most: float
    cls_median: float
    cls_most: float
    agreement: float
    mixed: float
    cls_agreement: float


class Encoder:
    """The CLS token of a ViT-S/16 of 12 layers with random weights, on pixels as a ViT takes them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
        self._net = ViTModel(config, add_pooling_layer=False).eval()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(h, w, 3) to (384,)."""
        row = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            found: NDArray[np.float32] = self._net(row).last_hidden_state[0, 0].numpy()
        return found


def measure(model: Model, ways: Ways, pictures: Iterable[bytes], *, count: int) -> dict[str, Drift]:
    """Every way but the exact one, over so many pictures, of which one at a time is in memory."""
    encoder = Encoder()
    rows: dict[str, list[tuple[NDArray[Any], ...]]] = {name: [] for name in ways}
    gaps: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _, data in zip(range(count), pictures, strict=False):
        found: dict[str, tuple[NDArray[Any], ...]] = {}
        for name, way in ways.items():
            pixels = way(data)
            tokens = model.embed([pixels])[0].patches
            found[name] = (pixels, tokens, encoder(pixels))
            rows[name].append((tokens.mean(axis=0), found[name][2]))
        for name, (pixels, tokens, cls) in found.items():
            truth = found["exact"]
            levels = float(np.abs(pixels.astype(int) - truth[0]).mean())
            gaps[name].append((levels, _relative(tokens, truth[1]), _relative(cls, truth[2])))
    return {name: _drift(rows, gaps[name], name) for name in ways if name != "exact"}


def _drift(
    rows: Mapping[str, list[tuple[NDArray[Any], ...]]], gaps: list[tuple[float, float, float]], name: str
) -> Drift:
    levels, tokens, cls = np.array(gaps).T
    (mean, top), (its_mean, its_top) = (
        (np.stack(part) for part in zip(*rows[key], strict=True)) for key in ("exact", name)
    )
    return Drift(
        levels=float(levels.mean()),
        median=float(np.median(tokens)),
        most=float(tokens.max()),
        cls_median=float(np.median(cls)),
        cls_most=float(cls.max()),
        agreement=_same(_nearest(mean, mean), _nearest(its_mean, its_mean)),
        mixed=_same(_nearest(mean, mean), _nearest(its_mean, mean)),
        cls_agreement=_same(_nearest(top, top), _nearest(its_top, its_top)),
    )


def _relative(got: NDArray[Any], truth: NDArray[Any]) -> float:
    wide = truth.astype(np.float64)
    return float(np.linalg.norm(got - wide) / np.linalg.norm(wide))


def _nearest(asked: NDArray[Any], known: NDArray[Any]) -> NDArray[np.intp]:
    """Which other picture of the set is nearest to each, by Euclidean distance."""
    distance = np.linalg.norm(asked[:, None].astype(np.float64) - known[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return np.argmin(distance, axis=1)


def _same(one: NDArray[np.intp], other: NDArray[np.intp]) -> float:
    return float(np.mean(one == other))
