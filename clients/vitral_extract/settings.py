"""What makes a run the one it is: two parts of one data set must not differ in any of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from vitral.decode import EXACT
from vitral.errors import ArtifactError, InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral_extract import commit

FILE = "run.json"
"""Name of the file in the folder of a run."""

SCHEMA = 1
"""Version of the layout of a data set."""


@dataclass(frozen=True)
class Settings:
    """Everything that two runs into one folder must agree in.

    Attributes:
        model: name of the model.
        version: its version.
        fingerprint: its identity.
        preprocessing: from picture to input, as proto JSON.
        outputs: names of the arrays.
        dtype: their element type.
        format: of the files.
        shard_rows: pictures of one shard.
        count: pictures of the source.
        source: sha256 of the source's listing.
        decode: how image files are decoded; runs from before there was a choice have it exact.
        size: height and width of the images, of a model of dynamic size.
    """

    model: str
    version: str
    fingerprint: str
    preprocessing: dict[str, Any]
    outputs: tuple[str, ...]
    dtype: str
    format: str
    shard_rows: int
    count: int
    source: str
    decode: str = EXACT
    size: tuple[int, ...] | None = None

    def write(self, folder: Path) -> None:
        """Writes run.json."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n"
        commit.write(folder / FILE, text.encode())

    def demand(self, earlier: Settings, folder: Path) -> None:
        """Refuses to go on with a run of other settings; sources are compared elsewhere.

        Names of model and version may differ: what counts of a model is its fingerprint.

        Raises:
            InvalidArgumentError: naming the first field that differs, and both values.
        """
        for name in (
            "fingerprint",
            "preprocessing",
            "decode",
            "size",
            "outputs",
            "dtype",
            "format",
            "shard_rows",
        ):
            mine, its = getattr(self, name), getattr(earlier, name)
            if isinstance(mine, dict) and isinstance(its, dict):
                mine, its = _differing(mine, its), _differing(its, mine)
            if mine != its:
                raise InvalidArgumentError(
                    f"{folder} holds a run whose {name} is {_said(its)}, this one's is {_said(mine)}: "
                    "name another --out"
                )


def read(folder: Path) -> Settings | None:
    """The settings of the run in a folder; None where it holds none.

    Raises:
        ArtifactError: run.json cannot be read, or is of a newer layout.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_bytes())
        if data.pop("schema") > SCHEMA:
            raise ArtifactError(f"{path} was written by a newer vitral: upgrade vitral")
        size = data.get("size")
        return Settings(**{**data, "outputs": tuple(data["outputs"]), "size": size and tuple(size)})
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None


def preprocessing_of(spec: pb.ModelSpec) -> dict[str, Any]:
    """The preprocessing of a model as it stands in run.json, without its bound in words."""
    told: dict[str, Any] = json_format.MessageToDict(spec.preprocessing, preserving_proto_field_name=True)
    told.pop("bound", None)
    return told


def _differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What of one is not the same in the other; what only the other has stands as None."""
    return {key: one.get(key) for key in {**one, **other} if one.get(key) != other.get(key)}


def _said(value: object) -> str:
    if isinstance(value, dict):
        value = tuple(f"{key} {of}" for key, of in value.items())
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) < 80 else f"{text[:77]}..."
