"""Two artifacts on the same pictures: how far apart their embeddings are, and what each costs.

Without torch: both are opened as a server opens them. Models of other widths can be compared too, by which
neighbours their vectors have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

import vitral_engine
from vitral import spec as specs
from vitral.errors import ImageError, InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral_engine.engine import Model
from vitral_engine.image import open_rgb
from vitral_engine.preprocess import Preprocessor
from vitral_export import cases

_WINDOWS = 3
"""Cuts along each side of a photograph; they overlap by half."""

_PATCHES = 16
"""Patch vectors of a picture that are looked at, spread evenly over its grid."""

_BATCH = 8
_BEST = 5

Picture = NDArray[np.uint8]
Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """Errors of one output of B, taken against A's.

    Attributes:
        median, largest: relative L2 over pictures.
        cosine: the largest 1 - cosine of a row.
    """

    output: str
    median: float
    largest: float
    cosine: float


@dataclass(frozen=True)
class Neighbours:
    """How often a vector's nearest ones, by cosine, are the same in both.

    Attributes:
        output: that the vectors are of.
        rows: "cls", "patches", or "vector" for an output without tokens.
        vectors: in the gallery.
        top1, top5: share of the nearest one, and of the nearest five, that are the same.
        mixed1: the same as `top1` where B asks in A's gallery; None where their widths differ.
    """

    output: str
    rows: str
    vectors: int
    top1: float
    top5: float
    mixed1: float | None


@dataclass(frozen=True)
class Cost:
    """What one artifact takes.

    Attributes:
        model, precision: which it is.
        images_per_second: in process, in batches of 8.
        bytes: of graphs and weights.
    """

    model: str
    precision: str
    images_per_second: float
    bytes: int


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared.

    Attributes:
        pictures: how many.
        drift: of outputs that both have, in the same shape.
        neighbours: of outputs that both have.
        costs: of A and of B.
        notes: what to know beside the figures.
    """

    pictures: int
    drift: tuple[Drift, ...]
    neighbours: tuple[Neighbours, ...]
    costs: tuple[Cost, Cost]
    notes: tuple[str, ...]


def compare(
    one: str | Path, other: str | Path, *, folder: str | Path | None = None, seconds: float = 1.0
) -> Comparison:
    """Compares two models, `REPO/NAME` or `REPO/NAME/VERSION`.

    Args:
        one: A.
        other: B.
        folder: its picture files are embedded; None: cuts of scikit-image's photographs.
        seconds: each is timed for.

    Raises:
        InvalidArgumentError: a model takes no pictures, they have no output in common, or there are fewer
            than two pictures.
        VitralError: a model cannot be opened.
    """
    pictures = list(_cuts() if folder is None else _files(Path(folder)))
    if len(pictures) < 2:
        raise InvalidArgumentError(f"{len(pictures)} pictures in {folder}; neighbours take at least two")
    a, b = (vitral_engine.open(path, device="cpu") for path in (one, other))
    names = _common(a, b)
    drift: list[Drift] = []
    neighbours: list[Neighbours] = []
    for name in names:
        rows = [_embedded(model, name, pictures) for model in (a, b)]
        if rows[0].shape == rows[1].shape:
            drift.append(_drift(name, *rows))
        views = [_views(model.spec, name, array) for model, array in zip((a, b), rows, strict=True)]
        shared = [
            kind for kind in views[0] if kind in views[1] and len(views[0][kind]) == len(views[1][kind])
        ]
        neighbours += [_neighbours(name, kind, views[0][kind], views[1][kind]) for kind in shared]
    rates = _rates((a, b), pictures, seconds)
    costs = tuple(
        Cost(_said(model), model.spec.precision, rate, _bytes(model))
        for model, rate in zip((a, b), rates, strict=True)
    )
    return Comparison(len(pictures), tuple(drift), tuple(neighbours), (costs[0], costs[1]), _notes(a, b))


def _common(a: Model, b: Model) -> list[str]:
    for model in (a, b):
        if not model.spec.HasField("preprocessing"):
            raise InvalidArgumentError(f"{_said(model)} takes no pictures, only prepared rows")
    its = {item.name for item in b.spec.outputs}
    names = [item.name for item in a.spec.outputs if item.name in its]
    if not names:
        said = " and ".join(", ".join(item.name for item in model.spec.outputs) for model in (a, b))
        raise InvalidArgumentError(f"{_said(a)} and {_said(b)} have no output in common: {said}")
    return names


def _cuts() -> Iterator[Picture]:
    """Overlapping cuts of real photographs, of half their sides."""
    for name in cases.PHOTOGRAPHS:
        whole = np.asarray(open_rgb(cases.photograph_bytes(name)))
        height, width = whole.shape[0] // 2, whole.shape[1] // 2
        for row in range(_WINDOWS):
            for column in range(_WINDOWS):
                top, left = row * height // (_WINDOWS - 1), column * width // (_WINDOWS - 1)
                yield np.ascontiguousarray(whole[top : top + height, left : left + width])


def _files(folder: Path) -> Iterator[Picture]:
    if not folder.is_dir():
        raise InvalidArgumentError(f"{folder} is no folder of pictures")
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            yield np.asarray(open_rgb(path.read_bytes()))
        except ImageError as error:
            raise InvalidArgumentError(f"{path}: {error}") from None


def _embedded(model: Model, output: str, pictures: Sequence[Picture]) -> Vectors:
    """(pictures, ...) in float64."""
    found = model.embed(pictures, outputs=[output])
    return np.stack([np.asarray(one.outputs[output], np.float64) for one in found])


def _drift(name: str, mine: Vectors, its: Vectors) -> Drift:
    flat, gap = mine.reshape(len(mine), -1), (its - mine).reshape(len(mine), -1)
    errors = np.linalg.norm(gap, axis=1) / np.maximum(np.linalg.norm(flat, axis=1), np.finfo(float).tiny)
    rows = [array.reshape(-1, array.shape[-1]) for array in (mine, its)]
    cosines = (_unit(rows[0]) * _unit(rows[1])).sum(axis=1)
    return Drift(name, float(np.median(errors)), float(errors.max()), float(1 - cosines.min()))


def _views(spec: pb.ModelSpec, name: str, array: Vectors) -> Mapping[str, Vectors]:
    """The vectors of an output: the CLS token's and some patches', or the one that it is."""
    item = specs.output(spec, name)
    if not specs.has_patches(item):
        return {"vector": array.reshape(len(array), -1)}
    prefix = list(item.prefix_tokens)
    patches = array[:, len(prefix) :]
    chosen = np.unique(np.linspace(0, patches.shape[1] - 1, _PATCHES).round().astype(int))
    views = {"patches": patches[:, chosen].reshape(-1, array.shape[-1])}  # P N D -> P*n D
    if pb.PREFIX_TOKEN_CLS in prefix and item.image_dependent_prefix:
        views = {"cls": array[:, prefix.index(pb.PREFIX_TOKEN_CLS)], **views}
    return views


def _neighbours(name: str, kind: str, mine: Vectors, its: Vectors) -> Neighbours:
    first, second = _unit(mine), _unit(its)
    a, b = _nearest(first, first), _nearest(second, second)
    shared = [len(set(x) & set(y)) / len(x) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    mixed = None
    if mine.shape == its.shape:
        mixed = float((_nearest(second, first)[:, 0] == a[:, 0]).mean())
    return Neighbours(
        name, kind, len(mine), float((a[:, 0] == b[:, 0]).mean()), float(np.mean(shared)), mixed
    )


def _nearest(queries: Vectors, gallery: Vectors) -> NDArray[np.int64]:
    """The nearest by cosine of each, without itself: (queries, 5) or as many as there are."""
    likeness = queries @ gallery.T
    np.fill_diagonal(likeness, -np.inf)
    best = min(_BEST, len(gallery) - 1)
    order: NDArray[np.int64] = np.argsort(-likeness, axis=1, kind="stable")[:, :best]
    return order


def _unit(rows: Vectors) -> Vectors:
    lengths = np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), np.finfo(float).tiny)
    unit: Vectors = rows / lengths
    return unit


def _rates(models: tuple[Model, Model], pictures: Sequence[Picture], seconds: float) -> list[float]:
    """Images a second of the default outputs, by turns, from pixels of each model's own size."""
    batches = []
    for model in models:
        contract = Preprocessor(model.spec.preprocessing)
        batches.append([contract.resize(picture) for picture in pictures[:_BATCH]])
        model.embed(batches[-1])
    found: tuple[list[float], list[float]] = ([], [])
    until = perf_counter() + 2 * seconds
    while not found[1] or perf_counter() < until:
        for model, batch, rates in zip(models, batches, found, strict=True):
            start = perf_counter()
            model.embed(batch)
            rates.append(len(batch) / (perf_counter() - start))
    return [median(rates) for rates in found]


def _bytes(model: Model) -> int:
    files = {*(graph.file for graph in model.spec.graphs), specs.WEIGHTS}
    paths = (model.artifact.folder / name for name in files)
    return sum(path.stat().st_size for path in paths if path.exists())


def _notes(a: Model, b: Model) -> tuple[str, ...]:
    notes = []
    if a.spec.fingerprint == b.spec.fingerprint:
        notes.append("both have one fingerprint: they are the same model")
    if a.spec.preprocessing != b.spec.preprocessing:
        notes.append("their preprocessing differs, and with it what they see of a picture")
    only = [
        f"only {_said(x)} has {', '.join(sorted(names))}"
        for x, y in ((a, b), (b, a))
        if (names := {item.name for item in x.spec.outputs} - {item.name for item in y.spec.outputs})
    ]
    return (*notes, *only)


def _said(model: Model) -> str:
    return f"{model.spec.name}/{model.version}"
