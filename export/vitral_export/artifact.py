"""Writes the files of a version folder: graphs first, then the proof and everything around it."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import PIL
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import nn

from vitral import spec as specs
from vitral.errors import UnsupportedError
from vitral.limits import SCHEMA
from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import sha256_file
from vitral_engine.image import open_rgb
from vitral_engine.preprocess import Preprocessor
from vitral_export import (
    cases,
    contract,
    figures,
    fold,
    fused,
    onnx_graph,
    onnx_metadata,
    preprocessing,
    report,
    subgraphs,
    verify,
    weights,
)
from vitral_export.dynamic_size import is_dynamic, sizes
from vitral_export.loaded import Loaded
from vitral_export.precision.graphs import converted
from vitral_export.precision.kinds import FLOAT32
from vitral_export.progress import stage
from vitral_export.verify import Verification
from vitral_export.wrap import Inference

log = logging.getLogger(__name__)

PHOTOGRAPH = "photograph.jpg"
"""File of the golden photograph."""

CONFIG = "config.json"
"""File of the configuration that a model of transformers has; it only describes the model."""


def write_graphs(
    folder: Path,
    wrapped: Inference,
    loaded: Loaded,
    *,
    name: str,
    opset: int,
    precision: str = FLOAT32,
) -> pb.ModelSpec:
    """Writes graphs, weights and embedding tensors: everything that makes the identity.

    Returns:
        The spec with its fingerprint, not yet proven.

    Raises:
        ProofError: torch cannot export the module, onnx's checker refuses a graph, or a weight is beyond
            the precision.
        UnsupportedError: there is nothing to quantise.
        OSError: the folder cannot be written to.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name_of_scratch:
        scratch = Path(name_of_scratch)
        with stage("trace and export"):
            whole = onnx_graph.export(wrapped, loaded, opset=opset, scratch=scratch)
        with stage("files of graphs and weights"):
            forms = _forms(whole, loaded, scratch)
            parts = subgraphs.parts(whole, _native_shape(loaded))
            graphs = _parts(_converted(forms, precision, scratch), parts)
            for item in graphs:
                onnx_metadata.write(item.model, item.told, loaded.source, loaded.preprocessing)
            onnx_graph.save(folder, {item.told.file: item.model for item in graphs}, scratch=scratch)
    for item in graphs:
        item.told.fused.update(fused.counted(folder / item.told.file, item.model))
    if (config := _config(loaded.module)) is not None:
        _write(folder / CONFIG, config.encode())
    if loaded.embedding:
        tensors = {key: np.ascontiguousarray(array) for key, array in sorted(loaded.embedding.items())}
        _write(folder / specs.EMBEDDING, save(tensors))
    spec = pb.ModelSpec(
        schema=SCHEMA,
        name=name,
        source=loaded.source,
        architecture=loaded.architecture,
        precision=precision,
        opset=opset,
        graphs=[item.told for item in graphs],
        preprocessing=loaded.preprocessing,
        outputs=loaded.outputs,
        default_outputs=[item.name for item in loaded.outputs if item.trained][:1],
    )
    spec.fingerprint = specs.identity(spec, _hashes(folder))
    return spec


@dataclass(frozen=True)
class _Graph:
    """A graph and what the spec says of it."""

    told: pb.Graph
    model: onnx.ModelProto


def _forms(model: onnx.ModelProto, loaded: Loaded, scratch: Path) -> list[_Graph]:
    """The whole graph in every form, cheapest first: the uint8 one, where there is one, and float32."""
    outputs = [item.name for item in loaded.outputs]
    forms = [_Graph(pb.Graph(file=onnx_graph.FLOAT_FILE, input=loaded.input, outputs=outputs), model)]
    if loaded.preprocessing is None:
        return forms
    dynamic = is_dynamic(loaded.architecture)
    size = sizes(loaded.architecture).traced if dynamic else None
    try:
        folded = fold.fold(model, loaded.input.name, loaded.preprocessing, folder=scratch, size=size)
    except UnsupportedError as error:
        # Normalisation cannot be folded into the module's first layer.
        log.info("%s has no uint8 graph: %s", loaded.architecture.module, error)
        return forms
    pixels = fold.pixels_input(loaded.preprocessing, dynamic=dynamic)
    return [_Graph(pb.Graph(file=fold.UINT8_FILE, input=pixels, outputs=outputs), folded), *forms]


def _converted(forms: Sequence[_Graph], precision: str, scratch: Path) -> list[_Graph]:
    """The whole graph in its forms, in this precision."""
    if precision == FLOAT32:
        return list(forms)
    for form in forms:
        for item in form.model.graph.initializer:
            weights.bring_in(item, scratch)
    made = converted({form.told.file: form.model for form in forms}, precision)
    return [_Graph(form.told, made[form.told.file]) for form in forms]


def _native_shape(loaded: Loaded) -> list[int]:
    native = {"height": loaded.architecture.image_size.height, "width": loaded.architecture.image_size.width}
    return [axis.size or native.get(axis.name, 1) for axis in loaded.input.axes]


def _parts(forms: Sequence[_Graph], parts: Mapping[str, Sequence[str]]) -> list[_Graph]:
    """Every form of every part and of the whole; of those that give an output the cheapest stands first."""
    found: list[_Graph] = []
    for output, outputs in parts.items():
        for form in forms:
            taken = [item.told.file for item in (*found, *forms)]
            file = subgraphs.file_of(form.told.file, output, taken=taken)
            told = pb.Graph(file=file, input=form.told.input, outputs=outputs)
            found.append(_Graph(told, subgraphs.cut(form.model, outputs)))
    return [*found, *forms]


def _config(module: nn.Module) -> str | None:
    """config.json of a model of transformers, without a word of where it was loaded from."""
    told = getattr(module, "config", None)
    if "transformers" not in sys.modules or told is None:
        return None
    from transformers import PreTrainedConfig

    if not isinstance(told, PreTrainedConfig):
        return None
    known = {key: value for key, value in told.to_diff_dict().items() if not key.startswith("_")}
    known["architectures"] = [type(module).__name__]
    return json.dumps(known, indent=2, sort_keys=True, default=str) + "\n"


def write_proof(folder: Path, spec: pb.ModelSpec, verification: Verification) -> None:
    """Writes the proof, the report and, last, the manifest; fills in the spec's proof and hashes."""
    spec.proof.CopyFrom(verification.proof)
    _write(folder / verify.GOLDEN_FILE, verification.goldens.encode())
    pixels = None
    if spec.HasField("preprocessing"):
        if (text := preprocessing.hugging_face(spec.preprocessing)) is not None:
            _write(folder / preprocessing.FILE, text.encode())
        if spec.preprocessing.contract != contract.RAW:
            pixels = _write_photograph(folder, spec)
    _write(folder / figures.FILE, figures.text(spec, verification.runs, verification.weights).encode())
    _write(folder / report.FILE, report.page(spec, verification.runs, pixels).encode())
    for file, digest in _hashes(folder).items():
        spec.sha256[file] = digest
    specs.check(spec)
    _write(folder / specs.MANIFEST, specs.to_json(spec).encode())


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:  # a full disk, for one; the error itself does not name the file
        raise OSError(f"{path.name} cannot be written: {error.strerror or error}") from error


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != specs.MANIFEST}


def _write_photograph(folder: Path, spec: pb.ModelSpec) -> NDArray[np.uint8]:
    """Writes it, with the hash of its pixels after the resize: uint8, or float32 under some contracts."""
    data = cases.photograph_bytes(cases.GOLDEN_PHOTOGRAPH)
    _write(folder / PHOTOGRAPH, data)
    preprocessor = Preprocessor(spec.preprocessing)
    pixels = preprocessor.resize(open_rgb(data))
    photograph = pb.GoldenPhotograph(
        file=PHOTOGRAPH,
        pixels_sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        libraries={"pillow": PIL.__version__},
        credit=cases.GOLDEN_CREDIT,
    )
    spec.proof.photograph.CopyFrom(photograph)
    return preprocessor.shown(pixels)
