"""Finds a version folder of the repository, reads its manifest and checks every hash in it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from vitral import spec as specs
from vitral.errors import ArtifactError, ModelNotFoundError
from vitral.v1.model_pb2 import ModelSpec
from vitral_engine.signature import Trust

_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True)
class Artifact:
    """A checked version folder.

    Attributes:
        folder: the version folder, `REPO/NAME/VERSION`.
        version: its name.
        spec: what manifest.json says.
    """

    folder: Path
    version: str
    spec: ModelSpec

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.spec.name

    @property
    def model_folder(self) -> Path:
        """Folder of the model, which holds config.pbtxt."""
        return self.folder.parent


def models(repo: Path) -> list[Path]:
    """Folders of a repository that hold a version, sorted by name.

    Raises:
        ModelNotFoundError: the repository is no folder.
    """
    if not repo.is_dir():
        raise ModelNotFoundError(f"model repository {repo} is not a folder")
    folders = (path for path in repo.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path for path in folders if versions(path))


def versions(model_folder: Path) -> list[int]:
    """Versions of a model, oldest first. Names other than `[1-9][0-9]*` are not versions."""
    names = (path.name for path in model_folder.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if _VERSION.fullmatch(name))


def open_artifact(path: Path | str, *, trust: Trust | None = None) -> Artifact:
    """The artifact at `REPO/NAME/VERSION`, or the newest version of `REPO/NAME`.

    Args:
        path: folder of the model or of one version.
        trust: the keys of which one has to have signed the manifest; None: none has to.

    Raises:
        ModelNotFoundError: there is no such folder, or it holds no version.
        ArtifactError: the manifest, its signature or a hash does not hold.
    """
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise ModelNotFoundError(f"no model at {path}")
    if not (folder / specs.MANIFEST).exists() and not _VERSION.fullmatch(folder.name):
        found = versions(folder)
        if not found:
            raise ModelNotFoundError(f"{path} holds no version")
        folder = folder / str(found[-1])
    manifest = folder / specs.MANIFEST
    if not manifest.exists():
        raise ArtifactError(f"{path} has no {specs.MANIFEST}")
    where = f"{folder.parent.name}/{folder.name}/{specs.MANIFEST}"
    data = _read(manifest, where)
    if trust is not None:  # first: of a stranger's manifest nothing is read
        trust.demand(folder, data, where=where)
    spec = specs.from_json(data, where=where)
    artifact = Artifact(folder, folder.name, spec)
    _check(artifact, where=where)
    return artifact


def _read(manifest: Path, where: str) -> bytes:
    try:
        return manifest.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{where} cannot be read: {error.strerror}") from None


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(artifact: Artifact, *, where: str) -> None:
    spec = artifact.spec
    if spec.name != artifact.model_folder.name:
        raise ArtifactError(
            f"{where} names model {spec.name}, but its folder is {artifact.model_folder.name}"
        )
    needed = {graph.file for graph in spec.graphs} | {specs.WEIGHTS, spec.proof.golden_file}
    needed.add(spec.proof.photograph.file)
    if unhashed := sorted(name for name in needed if name and name not in spec.sha256):
        raise ArtifactError(f"{where} has no sha256 of {', '.join(unhashed)}")
    for name, expected in sorted(spec.sha256.items()):
        file = artifact.folder / name
        if Path(name).name != name or name in ("", ".", ".."):
            raise ArtifactError(f"{where} names {name!r}, which is not a plain file name")
        if not file.is_file():
            raise ArtifactError(f"{where} names {name}, which is missing")
        if (found := sha256_file(file)) != expected:
            raise ArtifactError(
                f"{name} has sha256 {found[:12]}..., {where} says {expected[:12]}...: it was changed"
            )
    if specs.identity(spec, spec.sha256) != spec.fingerprint:
        raise ArtifactError(f"{where}: the fingerprint does not follow from its files")
