"""metadata_props of a graph: where it is from, what its pictures go through, and by which rule it is proven.

What is only known after the proof, the budgets, stands in the manifest. `Image.*` are ONNX's own keys; they
speak of inputs whose denotation is IMAGE.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import onnx
from google.protobuf import json_format

from vitral.v1 import model_pb2 as pb

TOLERANCES = (
    "against float64, of the worst image: relative L2 at most 3 x that of torch float32 + 2^-22, "
    "max abs at most 3 x that of torch float32 + 2^-18 x rms of the output; budgets: manifest.json"
)
"""The rule of the budgets."""

_RANGES: Mapping[tuple[float, float], str] = {
    (0.0, 255.0): "NominalRange_0_255",
    (0.0, 1.0): "Normalized_0_1",
    (-1.0, 1.0): "Normalized_1_1",
}
_EQUAL = 1e-6  # of numbers that came through JSON


def write(
    model: onnx.ModelProto,
    graph: pb.Graph,
    source: pb.Source,
    preprocessing: pb.Preprocessing | None,
    *,
    tolerances: str = TOLERANCES,
) -> None:
    """Fills in the metadata of one graph: the same for the same source, on every machine."""
    props = {
        "vitral.source": source.kind,
        "vitral.reference": source.reference,
        "vitral.revision": source.revision,
        "vitral.weights_sha256": source.weights_sha256,
        "vitral.preprocessing": _told(preprocessing),
        "vitral.tolerances": tolerances,
    }
    image = {} if preprocessing is None else _image(graph, preprocessing)
    if image:
        model.graph.input[0].type.denotation = "IMAGE"
    props |= image
    onnx.helper.set_model_props(model, {key: value for key, value in sorted(props.items()) if value})


def _told(preprocessing: pb.Preprocessing | None) -> str:
    """Contract and numbers as JSON, without the sentence about its bound."""
    if preprocessing is None:
        return "none"
    told = json_format.MessageToDict(preprocessing, preserving_proto_field_name=True)
    told.pop("bound", None)
    return json.dumps(told, sort_keys=True)


def _image(graph: pb.Graph, preprocessing: pb.Preprocessing) -> dict[str, str]:
    """ONNX's keys, as far as they have a word for what the graph takes."""
    if len(preprocessing.mean) != 3:
        return {}
    found = {"Image.BitmapPixelFormat": "Rgb8", "Image.ColorSpaceGamma": "SRGB"}
    if name := _range(graph, preprocessing):
        found["Image.NominalPixelRange"] = name
    return found


def _range(graph: pb.Graph, preprocessing: pb.Preprocessing) -> str:
    """ONNX's word for what values of 0 and 255 become in every channel; empty where it has none."""
    if graph.input.folded:
        return _RANGES[0.0, 255.0]
    white = 255 * preprocessing.rescale_factor
    pairs = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    for (low, high), name in _RANGES.items():
        near = _EQUAL * max(1.0, high)
        if all(
            abs((0 - mean) / std - low) <= near and abs((white - mean) / std - high) <= near
            for mean, std in pairs
        ):
            return name
    return ""
