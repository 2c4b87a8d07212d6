"""Embeddings to a file: .npy, .npz or .safetensors, written aside and renamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vitral.errors import ImageError, InvalidArgumentError
from vitral.results import Embedding
from vitral.tensors import Array

FORMATS = (".npy", ".npz", ".safetensors")
"""Suffixes of the files that can be written."""


def check_target(path: Path, *, dtype: str = "float32") -> None:
    """Refuses a file that could not be written, before any image is embedded.

    Raises:
        InvalidArgumentError: the suffix is none of `FORMATS`, or the file cannot hold the scales of int8.
        FileNotFoundError: its folder does not exist.
    """
    if path.suffix not in FORMATS:
        raise InvalidArgumentError(f"{path} ends in none of {', '.join(FORMATS)}")
    if path.suffix == ".npy" and dtype == "int8":
        raise InvalidArgumentError(f"{path} holds one array, and int8 has scales beside it: use .npz")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of {path} does not exist")


def save(path: Path, results: Mapping[str, Embedding | ImageError]) -> None:
    """Writes the outputs of every image that did not fail, of which there is at least one.

    A .npy holds one output, stacked in the order of the images; the others hold an array for each image and
    output under `IMAGE/OUTPUT`, and int8's scales under `IMAGE/OUTPUT.scale`, a .safetensors model, version,
    fingerprint and what was selected as well.

    Raises:
        InvalidArgumentError: the outputs do not fit a .npy, or an image failed: its rows have no names, and
            those after the failed one would be taken for others.
    """
    embeddings = {key: result for key, result in results.items() if isinstance(result, Embedding)}
    failed = len(results) - len(embeddings)
    if failed and path.suffix == ".npy":
        rows = f"{failed} of {len(results)} images failed, and rows of a .npy have no names"
        raise InvalidArgumentError(f"{path} was not written: {rows}; use .npz or .safetensors")
    write = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}[path.suffix]
    _replace(path, write(embeddings))


def keys(images: list[str]) -> list[str]:
    """A key of its own for each image: its file name, numbered where two are equal."""
    taken: set[str] = set()
    found = []
    for image in images:
        name = "stdin" if image == "-" else Path(image).name or image
        key, number = name, 1
        while key in taken:
            number += 1
            key = f"{name}-{number}"
        taken.add(key)
        found.append(key)
    return found


def _npy(embeddings: Mapping[str, Embedding]) -> Callable[[BinaryIO], None]:
    names = list(next(iter(embeddings.values())).outputs)
    if len(names) != 1:
        raise InvalidArgumentError(f".npy holds one output, not {len(names)}: {', '.join(names)}; use .npz")
    arrays = [embedding.outputs[names[0]] for embedding in embeddings.values()]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise InvalidArgumentError(f".npy holds arrays of one shape, not {shapes}; use .npz")
    stacked = np.stack(arrays)  # B x (N, D) -> B N D
    return lambda file: np.save(file, stacked, allow_pickle=False)


def _npz(embeddings: Mapping[str, Embedding]) -> Callable[[BinaryIO], None]:
    arrays: dict[str, Any] = dict(_flat(embeddings))
    return lambda file: np.savez(file, **arrays)


def _safetensors(embeddings: Mapping[str, Embedding]) -> Callable[[BinaryIO], None]:
    from safetensors.numpy import save as to_bytes

    first = next(iter(embeddings.values()))
    metadata = {
        "model": first.model,
        "version": first.version,
        "fingerprint": first.fingerprint,
        "weights": first.spec.source.weights_note,
        **({"proof": "unproven"} if first.unproven else {}),
    } | {f"selection {name}": str(chosen) for name, chosen in first.selections.items()}
    data = to_bytes(_flat(embeddings), metadata=metadata)

    def write(file: BinaryIO) -> None:
        file.write(data)

    return write


def _flat(embeddings: Mapping[str, Embedding]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for key, embedding in embeddings.items():
        arrays |= {f"{key}/{name}": array for name, array in embedding.outputs.items()}
        arrays |= {f"{key}/{name}.scale": scale for name, scale in embedding.scales.items()}
    return arrays


def _replace(path: Path, write: Callable[[BinaryIO], None]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            write(file)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
