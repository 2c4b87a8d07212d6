"""Puts an export into the model repository: staged aside, checked, then one rename.

A repository is a Triton model repository too. Triton takes every folder in its root for a model, so a new
NAME is staged in a folder beside the repository; a new version is staged inside NAME, which Triton ignores.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vitral import spec as specs
from vitral import tensors
from vitral.errors import ArtifactError, InvalidArgumentError, ModelNotFoundError
from vitral.v1 import model_pb2 as pb
from vitral_engine import triton
from vitral_engine.artifact import Artifact, open_artifact, versions
from vitral_export import lock

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Stage:
    """A place to write one version, under the lock of its NAME.

    Attributes:
        model_folder: `REPO/NAME`, which may not be there yet.
        staged: what will be renamed: a whole model folder named NAME, or a version folder inside NAME.
        folder: where the files of the version go.
    """

    model_folder: Path
    staged: Path
    folder: Path

    def installed(self, fingerprint: str) -> Artifact | None:
        """The newest version where it is whole and has this identity.

        An older one does not count: the newest is what is served, and a damaged one is repaired by the next.
        """
        if not self.model_folder.is_dir() or not (found := versions(self.model_folder)):
            return None
        try:
            newest = open_artifact(self.model_folder / str(found[-1]))
        except (ArtifactError, ModelNotFoundError):  # the search for the signature tells of it
            return None
        return newest if newest.spec.fingerprint == fingerprint else None

    def _newest_whole(self) -> Artifact | None:
        """The newest version that is whole; half-written and changed ones are passed over."""
        if not self.model_folder.is_dir():
            return None
        for version in reversed(versions(self.model_folder)):
            try:
                return open_artifact(self.model_folder / str(version))
            except (ArtifactError, ModelNotFoundError) as error:
                log.warning("version %d of %s is passed over: %s", version, self.model_folder.name, error)
        return None

    def demand_signature(self, spec: pb.ModelSpec) -> None:
        """Refuses an export whose inputs or outputs are not those of the versions there are.

        Raises:
            InvalidArgumentError: with both signatures.
        """
        newest = self._newest_whole()
        if newest is not None and _signature(newest.spec) != _signature(spec):
            raise InvalidArgumentError(
                f"{spec.name} has {_signature(newest.spec)}, this export {_signature(spec)}: "
                "a new signature is a new NAME"
            )
        try:
            triton.limits(self.model_folder, spec)
        except ArtifactError as error:
            raise InvalidArgumentError(f"{error}; a new signature is a new NAME") from None

    def install(self, spec: pb.ModelSpec) -> Path:
        """Makes the version visible with one rename, and returns its folder."""
        text = triton.config_text(spec)
        if self.staged == self.folder:
            target = self.model_folder / str(max(versions(self.model_folder), default=0) + 1)
            if not (self.model_folder / triton.CONFIG).exists():
                config = self.model_folder / f".{self.staged.name}.config"
                _write(config, text)
                config.rename(self.model_folder / triton.CONFIG)
            final = target
        else:
            target, final = self.model_folder, self.model_folder / self.folder.name
            target.parent.mkdir(exist_ok=True)
            _write(self.staged / triton.CONFIG, text)
        for path in (*self.staged.rglob("*"), self.staged):
            _sync(path)
        self.staged.rename(target)
        _sync(target.parent)
        return final


def check_name(name: str) -> None:
    """Refuses names that are no plain folder name.

    Raises:
        InvalidArgumentError: with the rule.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"name {name!r} is not possible: letters, digits, '.', '_' and '-', a letter or digit first"
        )


def check_repo(repo: str | os.PathLike[str]) -> Path:
    """The folder of the repository; refuses an empty name, which would be the working directory.

    Raises:
        InvalidArgumentError: it is empty.
    """
    if not os.fspath(repo):
        raise InvalidArgumentError("the repository's name is empty: '.' is the working directory")
    return Path(repo)


@contextmanager
def staging(repo: Path, name: str) -> Iterator[Stage]:
    """A stage for one export of NAME. Whatever was not installed is removed on the way out.

    The repository itself is made by `Stage.install`: an export that is refused leaves none.

    Raises:
        InvalidArgumentError: the name is not possible, the repository is no folder, or the folder beside it
            is on another file system.
    """
    check_name(name)
    if repo.exists() and not repo.is_dir():
        raise InvalidArgumentError(f"repository {repo} is not a folder")
    repo = repo.resolve()
    aside = repo.parent / f".{repo.name}.staging"
    with lock.hold(aside / f"{name}.lock"):
        _remove_leftovers(aside, repo, name)
        model_folder = repo / name
        if model_folder.exists():
            root = staged = folder = model_folder / f".staging-{os.getpid()}"
        else:
            if aside.stat().st_dev != (repo if repo.exists() else repo.parent).stat().st_dev:
                raise InvalidArgumentError(
                    f"{aside} is not on the file system of {repo}: no rename is possible"
                )
            root = aside / f"{name}.{os.getpid()}"
            staged = root / name
            folder = staged / "1"
        folder.mkdir(parents=True)
        try:
            yield Stage(model_folder, staged, folder)
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _remove_leftovers(aside: Path, repo: Path, name: str) -> None:
    """Removes what exports left that died. The lock is ours, so no living one is writing."""
    mine = re.compile(re.escape(name) + r"\.\d+")
    dead = [path for path in aside.iterdir() if path.is_dir() and mine.fullmatch(path.name)]
    dead += (repo / name).glob(".staging-*")
    for path in dead:
        log.warning("removing %s, left by an export that died", path.name)
        shutil.rmtree(path)
    for config in (repo / name).glob("..staging-*.config"):
        config.unlink()


def _signature(spec: pb.ModelSpec) -> str:
    graph = specs.float_graph(spec)
    taken = _said(graph.input.name, graph.input.dtype, graph.input.axes)
    given = (_said(item.name, item.dtype, item.axes) for item in spec.outputs if item.name in graph.outputs)
    return f"{taken} -> {', '.join(given)}"


def _said(name: str, dtype: int, axes: Iterable[pb.Axis]) -> str:
    extents = " x ".join(str(axis.size or axis.name) for axis in axes)
    return f"{name} {tensors.name_of(dtype)} {extents}"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
