"""What the `vitral` command prints: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vitral import decode as decodes
from vitral import dynamic
from vitral import spec as specs
from vitral.errors import ImageError
from vitral.results import Embedding
from vitral.selection import WHOLE
from vitral.tensors import Array
from vitral.v1 import embedding_service_pb2 as pb

RANDOM = "random weights"
UNPROVEN = "UNPROVEN"
STATES = {
    pb.MODEL_STATE_LOADING: "loading",
    pb.MODEL_STATE_READY: "ready",
    pb.MODEL_STATE_FAILED: "failed",
    pb.MODEL_STATE_BROKEN: "broken",
}


def embeddings_table(results: Mapping[str, Embedding]) -> None:
    """Image, output, shape, dtype, mean, standard deviation and milliseconds."""
    first = next(iter(results.values()))
    title = f"{first.model} version {first.version}, {first.fingerprint[:12]}"
    rows = [
        (
            key,
            name,
            _said(array),
            str(array.dtype),
            f"{mean:.4g}",
            f"{std:.4g}",
            f"{result.timings.total_ms:.1f}",
        )
        for key, result in results.items()
        for name, array in result.outputs.items()
        for mean, std in [_moments(result.dequantized(name))]
    ]
    _table(
        title, ("image", "output", "shape", "dtype", "mean", "std", "ms"), rows, right=("mean", "std", "ms")
    )


def embeddings_json(results: Mapping[str, Embedding | ImageError], file: str | None) -> None:
    """One document: the model, then every image with its outputs or its error."""
    document: dict[str, Any] = {}
    images = []
    for key, result in results.items():
        if isinstance(result, ImageError):
            images.append({"image": key, "error": str(result), "cause": result.cause})
            continue
        document = {
            "model": result.model,
            "version": result.version,
            "fingerprint": result.fingerprint,
            "unproven": result.unproven,
            "weights": result.spec.source.weights_note,
            "decode": result.decode,
        }
        images.append({"image": key} | _figures(result))
    _json(document | {"images": images, "file": file})


def models_table(models: Sequence[pb.ServedModel]) -> None:
    """Every model with its state, its device and what weights it has."""
    rows = [
        (
            served.name or served.spec.name,
            served.version,
            _state(served) + (f": {served.reason}" if served.reason else ""),
            served.device,
            decodes.of_enum(served.decode) if served.device else "",
            dynamic.described(served.spec) if served.spec.name else "",
            ", ".join(_outputs(served)),
            _weights(served),
            served.spec.fingerprint[:12],
        )
        for served in models
    ]
    columns = ("model", "version", "state", "device", "decode", "image", "outputs", "weights", "fingerprint")
    _table("models (* output by default)", columns, rows)


def models_json(models: Sequence[pb.ServedModel]) -> None:
    """The same as a list, with the whole spec."""
    documents = [
        {
            "name": served.name or served.spec.name,
            "version": served.version,
            "state": STATES.get(served.state, "unknown"),
            "reason": served.reason,
            "provider": served.provider,
            "device": served.device,
            "decode": decodes.of_enum(served.decode),
            "max_batch_size": served.max_batch_size,
            "unproven": _unproven(served),
            "unproven_note": served.spec.proof.note if _unproven(served) else "",
            "weights": served.spec.source.weights_note,
            "fingerprint": served.spec.fingerprint,
            "spec": json.loads(specs.to_json(served.spec)),
        }
        for served in models
    ]
    _json(documents)


def _state(served: pb.ServedModel) -> str:
    state = STATES.get(served.state, "unknown")
    return f"{state}, {UNPROVEN}" if _unproven(served) else state


def _unproven(served: pb.ServedModel) -> bool:
    """Of a model that could be read at all."""
    return bool(served.spec.fingerprint) and specs.is_unproven(served.spec)


def _outputs(served: pb.ServedModel) -> list[str]:
    defaults = set(served.spec.default_outputs)
    return [item.name + ("*" if item.name in defaults else "") for item in served.spec.outputs]


def _weights(served: pb.ServedModel) -> str:
    fallback = RANDOM if specs.is_random(served.spec) else served.spec.source.reference
    return served.spec.source.weights_note or fallback


def _figures(result: Embedding) -> dict[str, Any]:
    outputs = {}
    for name, array in result.outputs.items():
        mean, std = _moments(result.dequantized(name))
        selected = str(result.selections.get(name, WHOLE))
        shape, dtype = list(array.shape), str(array.dtype)
        outputs[name] = {"selection": selected, "shape": shape, "dtype": dtype, "mean": mean, "std": std}
    return {"grid": list(result.grid), "outputs": outputs, "timings": asdict(result.timings)}


def _moments(array: Array) -> tuple[float, float]:
    wide = array.astype(np.float64)
    return float(wide.mean()), float(wide.std())


def _said(array: Array) -> str:
    return " x ".join(map(str, array.shape))


def _json(document: object) -> None:
    print(json.dumps(document, indent=2))


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style="bold yellow" if cell.startswith(RANDOM) else "") for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a pipe has no width: do not fold at the 80 columns that are assumed
    console.print(table)
