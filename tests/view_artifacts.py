"""Artifacts with other tensors or another spec than the exporter gave them, hashed anew."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.numpy import load_file, save_file

from vitral import spec as specs
from vitral.tensors import Array
from vitral.v1.model_pb2 import ModelSpec
from vitral_engine.artifact import sha256_file


def copy(version: Path, repo: Path) -> Path:
    """A copy of a version folder, in a repository of its own."""
    folder = repo / version.parent.name / version.name
    shutil.copytree(version, folder)
    return folder


def with_tensors(version: Path, repo: Path, tensors: Mapping[str, Array]) -> Path:
    """A copy that has these embedding tensors as well."""
    folder = copy(version, repo)
    file = folder / specs.EMBEDDING
    save_file({**load_file(file), **tensors}, file)
    spec = read(folder)
    spec.sha256[specs.EMBEDDING] = sha256_file(file)
    write(folder, spec)
    return folder


def read(folder: Path) -> ModelSpec:
    return specs.from_json((folder / specs.MANIFEST).read_bytes())


def write(folder: Path, spec: ModelSpec) -> None:
    """The manifest, with the fingerprint that follows from it."""
    spec.fingerprint = specs.identity(spec, spec.sha256)
    (folder / specs.MANIFEST).write_text(specs.to_json(spec), encoding="utf-8")
