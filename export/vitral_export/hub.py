"""Hugging Face checkpoints on disk: the folder behind a name, and which of its files may be read.

A name is looked up once, so that every file is of one commit; where the hub cannot be reached, the local
cache has to do. Weights are read from safetensors only: a pickle can run anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import Any

from safetensors import safe_open

from vitral.errors import InvalidArgumentError, UnsupportedError, VitralError
from vitral_export.preprocessor_config import FILE as PREPROCESSOR

PREFIX = "hf:"
"""What the names of these sources begin with."""

CONFIG = "config.json"
"""File that says what a checkpoint is."""

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PROCESSOR = "processor_config.json"
_WANTED = (CONFIG, PREPROCESSOR, _PROCESSOR, _WEIGHTS, _INDEX, "model-*.safetensors")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_EXACT = ("F32", "F16", "BF16")  # the halves widen to float32 without rounding
_SAID = 300  # characters of a stranger's message


@dataclass(frozen=True)
class Checkpoint:
    """A folder that is there.

    Attributes:
        name: as it was asked for, `hf:...`.
        folder: where its files are.
        reference: how a spec calls it: a name of the hub, or the last part of a folder's, which is the same
            on every machine.
        revision: commit of a name of the hub; empty for a folder.
    """

    name: str
    folder: Path
    reference: str
    revision: str

    @property
    def has_preprocessor(self) -> bool:
        """Whether it says what its pictures go through."""
        return any((self.folder / file).is_file() for file in (PREPROCESSOR, _PROCESSOR))

    def config(self) -> dict[str, Any]:
        """What config.json says.

        Raises:
            InvalidArgumentError: there is none, or it is not JSON.
        """
        return _json(self.folder / CONFIG, self.name)


def find(name: str, revision: str | None) -> Checkpoint:
    """The checkpoint of `hf:NAME_OR_FOLDER`; what of a name is not in the local cache yet is fetched.

    Raises:
        InvalidArgumentError: there is no such folder, or neither hub nor cache has the name.
    """
    where = name.removeprefix(PREFIX)
    if not where:
        raise InvalidArgumentError(f"{PREFIX} needs a name or a folder behind it")
    folder = Path(where).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise InvalidArgumentError(f"{name} is a folder: it has no revision {revision}")
        return Checkpoint(name, folder, folder.resolve().name, "")
    if where.count("/") > 1 or where.startswith((".", "/", "~")):
        raise InvalidArgumentError(f"there is no folder {where}")
    from huggingface_hub.errors import LocalEntryNotFoundError

    with told(name), quiet():
        try:
            held = _snapshot(where, revision)
        except LocalEntryNotFoundError:
            of = "" if revision is None else f" of revision {revision}"
            why = f"its files{of} are not in the local cache, and the hub cannot be reached"
            raise InvalidArgumentError(f"{name} is no folder, {why}") from None
    return Checkpoint(name, held, where, held.name)


def _snapshot(where: str, revision: str | None) -> Path:
    """The folder of a name in the local cache, after fetching what is missing in it."""
    from huggingface_hub import model_info, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if revision is not None and _COMMIT.fullmatch(revision):
        with suppress(LocalEntryNotFoundError):
            held = Path(snapshot_download(where, revision=revision, local_files_only=True))
            if any((held / file).is_file() for file in (_WEIGHTS, _INDEX)):
                return held
        try:  # of a commit the hub is asked no question, and then retried for half a minute
            model_info(where, revision=revision)
        except HfHubHTTPError:
            raise
        except Exception as error:  # whatever the way to the hub raises
            raise LocalEntryNotFoundError(str(error)) from error
    return Path(snapshot_download(where, revision=revision, allow_patterns=list(_WANTED)))


def check_form(checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint whose weights are not whole and its own.

    Raises:
        UnsupportedError: they are quantised, distributed, elsewhere, or belong on top of others.
    """
    name, folder, config = checkpoint.name, checkpoint.folder, checkpoint.config()
    if config.get("quantization_config") is not None:
        raise UnsupportedError(f"{name} is quantised: weights of float32 or a half are needed")
    if (folder / "adapter_config.json").exists():
        raise UnsupportedError(f"{name} has an adapter, which has to be merged into the weights first")
    if list(folder.glob("shard-*-model-*.safetensors")):
        raise UnsupportedError(f"{name} is a distributed checkpoint: it has to be saved as {_WEIGHTS} first")
    explicit = config.get("transformers_weights")
    if explicit is not None and explicit not in (_WEIGHTS, _INDEX):
        raise UnsupportedError(f"{name} has its weights in {explicit!r}, {_WEIGHTS} is expected")


def check_files(checkpoint: Checkpoint, *, unread: Callable[[str], bool]) -> None:
    """Refuses a checkpoint that would be read from anything but whole safetensors files of float32 or halves.

    Args:
        checkpoint: to be read.
        unread: the tensors that are not, whose type does not matter.

    Raises:
        InvalidArgumentError: with the file or the tensor.
        UnsupportedError: see `check_form`.
    """
    check_form(checkpoint)
    name = checkpoint.name
    for file in weight_files(checkpoint):
        with told(f"{name}: {file.name}"), safe_open(file, framework="numpy") as opened:
            kinds = {key: opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118
        for key, kind in kinds.items():
            if kind not in _EXACT and not unread(key):
                raise InvalidArgumentError(f"{name}: {key} is {kind}, one of {', '.join(_EXACT)} is expected")


def weight_files(checkpoint: Checkpoint) -> list[Path]:
    """The safetensors files of a checkpoint.

    Raises:
        InvalidArgumentError: there are none, or the index leads elsewhere.
    """
    name, folder = checkpoint.name, checkpoint.folder
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _INDEX).is_file():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        why = f"; {pickled[0]} is pickled, can run any code and is never loaded" if pickled else ""
        raise InvalidArgumentError(f"{name} has no {_WEIGHTS}{why}")
    parts = _json(folder / _INDEX, name).get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise InvalidArgumentError(f"{name}: {_INDEX} has no weight_map")
    files = sorted({str(part) for part in parts.values()})
    for part in files:
        if Path(part).name != part or not part.endswith(".safetensors"):
            raise InvalidArgumentError(f"{name}: {_INDEX} leads to {part!r}, no safetensors file beside it")
        if not (folder / part).is_file():
            raise InvalidArgumentError(f"{name} has no {part}, which its {_INDEX} leads to")
    return [folder / part for part in files]


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        held = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidArgumentError(f"{name} has no {path.name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{name}: {path.name} is not JSON: {error}") from None
    if not isinstance(held, dict):
        raise InvalidArgumentError(f"{name}: {path.name} holds no JSON object")
    return held


@contextmanager
def quiet() -> Iterator[None]:
    """Load reports, retries and progress bars say nothing that is not told here in words."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    before = logging.get_verbosity(), hub.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub.set_verbosity(ERROR)
    logging.disable_progress_bar()  # the hub's too
    try:
        yield
    finally:
        logging.set_verbosity(before[0])
        hub.set_verbosity(before[1])
        if bars:
            logging.enable_progress_bar()


@contextmanager
def told(name: str) -> Iterator[None]:
    """Says in one line what a library could not read; what is ours already goes on as it is."""
    try:
        yield
    except VitralError:
        raise
    except Exception as error:  # the libraries raise whatever the files make them raise
        said = " ".join(str(error).split()) or type(error).__name__
        said = f"there is no {said}" if isinstance(error, KeyError) else said
        raise InvalidArgumentError(f"{name} cannot be loaded: {said[:_SAID]}") from error
