"""Writes the files of a version folder: graphs first, then the proof and everything around it."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import onnx
import PIL
from numpy.typing import NDArray
from safetensors.numpy import save

from vitral import spec as specs
from vitral.errors import UnsupportedError
from vitral.limits import SCHEMA
from vitral.v1 import model_pb2 as pb
from vitral_engine.artifact import sha256_file
from vitral_engine.image import open_rgb
from vitral_engine.preprocess import Preprocessor
from vitral_export import cases, figures, fold, onnx_graph, onnx_metadata, preprocessing, report, verify
from vitral_export.loaded import Loaded
from vitral_export.verify import Verification
from vitral_export.wrap import Inference

log = logging.getLogger(__name__)

PHOTOGRAPH = "photograph.jpg"
"""File of the golden photograph."""


def write_graphs(folder: Path, wrapped: Inference, loaded: Loaded, *, name: str, opset: int) -> pb.ModelSpec:
    """Writes graphs, weights and embedding tensors: everything that makes the identity.

    Returns:
        The spec with its fingerprint, not yet proven.

    Raises:
        ProofError: torch cannot export the module, or onnx's checker refuses a graph.
        OSError: the folder cannot be written to.
    """
    outputs = [item.name for item in loaded.outputs]
    model = onnx_graph.export(wrapped, loaded, opset=opset)
    graphs = {onnx_graph.FLOAT_FILE: model}
    listed = [pb.Graph(file=onnx_graph.FLOAT_FILE, input=loaded.input, outputs=outputs)]
    if loaded.preprocessing is not None and (folded := _folded(model, loaded)) is not None:
        graphs[fold.UINT8_FILE] = folded
        pixels = fold.pixels_input(loaded.preprocessing)
        # First: of graphs that give the same outputs the engine takes the first, and this one is cheaper.
        listed.insert(0, pb.Graph(file=fold.UINT8_FILE, input=pixels, outputs=outputs))
    for graph in listed:
        onnx_metadata.write(graphs[graph.file], graph, loaded.source, loaded.preprocessing)
    onnx_graph.save(folder, graphs)
    if loaded.embedding:
        tensors = {key: np.ascontiguousarray(array) for key, array in sorted(loaded.embedding.items())}
        _write(folder / specs.EMBEDDING, save(tensors))
    spec = pb.ModelSpec(
        schema=SCHEMA,
        name=name,
        source=loaded.source,
        architecture=loaded.architecture,
        precision="float32",
        opset=opset,
        graphs=listed,
        preprocessing=loaded.preprocessing,
        outputs=loaded.outputs,
        default_outputs=[item.name for item in loaded.outputs if item.trained][:1],
    )
    spec.fingerprint = specs.identity(spec, _hashes(folder))
    return spec


def _folded(model: onnx.ModelProto, loaded: Loaded) -> onnx.ModelProto | None:
    """The uint8 graph; None for a module whose first layer normalisation cannot be folded into."""
    assert loaded.preprocessing is not None
    try:
        return fold.fold(model, loaded.input.name, loaded.preprocessing)
    except UnsupportedError as error:
        log.info("%s has no uint8 graph: %s", loaded.architecture.module, error)
        return None


def write_proof(folder: Path, spec: pb.ModelSpec, verification: Verification) -> None:
    """Writes the proof, the report and, last, the manifest; fills in the spec's proof and hashes."""
    spec.proof.CopyFrom(verification.proof)
    _write(folder / verify.GOLDEN_FILE, verification.goldens.encode())
    pixels = None
    if spec.HasField("preprocessing"):
        text = preprocessing.hugging_face(spec.preprocessing)
        _write(folder / preprocessing.FILE, text.encode())
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
    data = cases.photograph_bytes(cases.GOLDEN_PHOTOGRAPH)
    _write(folder / PHOTOGRAPH, data)
    pixels = Preprocessor(spec.preprocessing).resize(open_rgb(data))
    photograph = pb.GoldenPhotograph(
        file=PHOTOGRAPH,
        pixels_sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        libraries={"pillow": PIL.__version__},
        credit=cases.GOLDEN_CREDIT,
    )
    spec.proof.photograph.CopyFrom(photograph)
    return pixels
