"""An artifact in the layout of transformers.js and optimum: configuration, processor, `onnx/model.onnx`.

Each graph is an artifact's own float graph, bit for bit, with its weights inside or in a file beside it.
Other precisions are artifacts of their own, proven as such.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import convert_model_to_external_data

from vitral import spec as specs
from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import Artifact, open_artifact
from vitral_export import preprocessor_config

LAYOUTS = ("transformers",)
"""Layouts there are."""

CONFIG = "config.json"
"""Of the model, as transformers writes it; an artifact has it where its source had."""

NAMES: Mapping[str, str] = {
    "float32": "model",
    "float16": "model_fp16",
    "float16-storage": "model_fp16",
    "int8": "model_quantized",
}
"""Precision to the name of its file."""

_MOST_INSIDE = 1 << 30
"""Bytes of weights that go into the graph's own file: protobuf ends at two GiB."""


def convert(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    beside: tuple[str | os.PathLike[str], ...] = (),
) -> list[Path]:
    """Writes a model in that layout, whole or not at all.

    Args:
        path: `REPO/NAME` or `REPO/NAME/VERSION`.
        target: a new folder.
        beside: the same model in other precisions, artifacts too.

    Returns:
        The files, relative to the folder.

    Raises:
        InvalidArgumentError: the folder is there, or the artifacts are not one model's.
        UnsupportedError: a model takes no pictures, or its processor has no file of transformers.
        ArtifactError: an artifact is damaged.
    """
    folder = Path(target)
    if folder.exists():
        raise InvalidArgumentError(f"{folder} is there already")
    every = [open_artifact(Path(one)) for one in (path, *beside)]
    _demand_one_model(every)
    parent = folder.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}-") as staged:
        made = Path(staged) / "made"
        (made / "onnx").mkdir(parents=True)
        _write_json(made / CONFIG, _config(every[0]))
        _write_json(made / preprocessor_config.FILE, _processor(every[0]))
        for artifact in every:
            _write_graph(made / "onnx" / f"{NAMES[artifact.spec.precision]}.onnx", artifact)
        os.replace(made, folder)
    return sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())


def _demand_one_model(every: list[Artifact]) -> None:
    first = every[0].spec
    if not first.HasField("preprocessing"):
        raise UnsupportedError(f"model {first.name} takes no pictures: it has no {preprocessor_config.FILE}")
    if not (every[0].folder / preprocessor_config.FILE).is_file():
        contract = first.preprocessing.contract
        raise UnsupportedError(f"model {first.name}: transformers has no processor for contract {contract}")
    taken: dict[str, str] = {}
    for artifact in every:
        spec, said = artifact.spec, f"{artifact.spec.name}/{artifact.version}"
        if spec.precision not in NAMES:
            raise UnsupportedError(f"{said} has precision {spec.precision!r}; known are {', '.join(NAMES)}")
        file = NAMES[spec.precision]
        if file in taken:
            raise InvalidArgumentError(f"{taken[file]} and {said} would both be onnx/{file}.onnx")
        taken[file] = said
        for what, mine, its in (
            ("weights", _weights(spec), _weights(first)),
            ("outputs", _outputs(spec), _outputs(first)),
            ("preprocessing", spec.preprocessing, first.preprocessing),
        ):
            if mine != its:
                raise InvalidArgumentError(f"{said} is another model than {first.name}: its {what} differ")


def _weights(spec: pb.ModelSpec) -> tuple[str, ...]:
    source = spec.source
    return source.kind, source.reference, source.revision, source.weights_sha256, source.weights_note


def _outputs(spec: pb.ModelSpec) -> list[tuple[str, list[int]]]:
    return [(item.name, [axis.size for axis in item.axes]) for item in spec.outputs]


def _config(artifact: Artifact) -> Mapping[str, Any]:
    """The source's own config.json; sizes alone where it had none."""
    file = artifact.folder / CONFIG
    if file.is_file():
        found: Mapping[str, Any] = json.loads(file.read_bytes())
        return found
    sizes = artifact.spec.architecture
    image, patch = sizes.image_size, sizes.patch_size
    return {
        "architectures": [sizes.module],
        "hidden_size": sizes.embed_dim,
        "image_size": image.height if image.height == image.width else [image.height, image.width],
        "model_type": "vit",
        "num_channels": sizes.in_channels,
        "patch_size": patch.height if patch.height == patch.width else [patch.height, patch.width],
    }


def _processor(artifact: Artifact) -> Mapping[str, Any]:
    """Under the class's general name: transformers.js knows none of the names of its backends."""
    told: dict[str, Any] = json.loads((artifact.folder / preprocessor_config.FILE).read_bytes())
    name = str(told["image_processor_type"])
    return told | {"image_processor_type": name.removesuffix("Pil").removesuffix("Fast")}


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_graph(path: Path, artifact: Artifact) -> None:
    model = onnx.load(artifact.folder / specs.float_graph(artifact.spec).file)
    if sum(len(item.raw_data) for item in model.graph.initializer) > _MOST_INSIDE:
        convert_model_to_external_data(model, location=f"{path.name}_data", size_threshold=1024)
    onnx.save(model, path)
