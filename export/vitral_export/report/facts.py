"""What the model is, in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vitral import spec as specs
from vitral import tensors
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export.contract import RAW
from vitral_export.report.html import TIMES, Column, Row, cell, code, count, facts, table


def sentence(spec: pb.ModelSpec) -> str:
    """What goes in and what becomes of it."""
    item = spec.architecture
    patches = item.grid.height * item.grid.width
    if _takes_tokens(spec):
        return (
            f"{_grid(spec)} = {count(patches, 'patch token')} of {count(item.embed_dim, 'number')} each "
            "go in, not an image."
        )
    return (
        f"An image of {size(item.image_size)} pixels and {count(item.in_channels, 'channel')} becomes "
        f"{_grid(spec)} = {count(patches, 'patch', 'patches')} of {size(item.patch_size)} pixels; each "
        f"becomes {count(item.embed_dim, 'number')}."
    )


def weights(spec: pb.ModelSpec) -> str:
    """How the weights came to be; where they are random, that their embeddings mean nothing."""
    note = spec.source.weights_note or "of unknown origin"
    return f"{note[:1].upper()}{note[1:]}"


def described(spec: pb.ModelSpec) -> str:
    """The table of facts."""
    item, source = spec.architecture, spec.source
    named = f"{source.reference}{f', revision {source.revision}' if source.revision else ''}"
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(source.libraries.items()))
    pairs = [
        ("Module", code(item.module)),
        ("Weights", escape(weights(spec))),
        ("Source", f"{escape(source.kind)}: {code(named)}" if named else escape(source.kind)),
        ("Image", _image(item)),
        ("Patch", f"{size(item.patch_size)} pixels" if item.HasField("patch_size") else ""),
        ("Grid", f"{_grid(spec)} = {count(item.grid.height * item.grid.width, 'patch', 'patches')}"),
        ("Token", count(item.embed_dim, "number")),
        ("Stored as", escape(f"{spec.precision}, ONNX opset {spec.opset}")),
        ("Made with", escape(libraries)),
        ("Fingerprint", code(spec.fingerprint)),
    ]
    return facts([(key, value) for key, value in pairs if value])


def outputs(spec: pb.ModelSpec) -> str:
    """Every output with its shape and meaning."""
    columns = [Column("shape"), Column("tokens"), Column("meaning")]
    rows = []
    for item in spec.outputs:
        default = "<small>default</small>" if item.name in spec.default_outputs else ""
        meaning = " ".join(
            [f"{item.meaning.rstrip('.')}." if item.meaning else "", *_reservations(item)]
        ).strip()
        cells = [
            cell(escape(shape(item.axes))),
            cell(escape(tokens(item))),
            cell(escape(meaning), kind="prose"),
        ]
        rows.append(Row(code(item.name) + default, cells))
    return table("Outputs; B is the batch", "output", columns, {"": rows}, kind="names")


def graphs(spec: pb.ModelSpec) -> str:
    """Every graph with its input."""
    columns = [Column("input"), Column("type"), Column("shape"), Column("normalisation"), Column("gives")]
    rows = []
    for graph in spec.graphs:
        item = graph.input
        entry = f"<code>{escape(item.name)}</code>"
        cells = [
            entry,
            escape(tensors.name_of(item.dtype)),
            escape(shape(item.axes)),
            _normalised(spec, item),
        ]
        gives = cell(", ".join(map(code, graph.outputs)), kind="prose")
        rows.append(Row(code(graph.file), [*map(cell, cells), gives]))
    return table("Graphs; all share one file of weights", "graph", columns, {"": rows}, kind="names")


def preprocessing(spec: pb.ModelSpec) -> str:
    """The contract from picture to input, with its bound."""
    told = spec.preprocessing
    if not spec.HasField("preprocessing"):
        return "<p>None: the model takes prepared float32 rows only.</p>"
    if told.contract == RAW:
        scaled = [
            ("Contract", code(told.contract)),
            ("Bound", escape(told.bound)),
            ("Size", f"{size(told.size)}, as it comes"),
            ("Scale", escape(_numbers(told.scale))),
            ("Offset", escape(_numbers(told.offset))),
        ]
        return facts(scaled)
    edge = (
        f"shortest edge to {told.shortest_edge} pixels"
        if told.shortest_edge
        else f"to {size(told.size)} pixels"
    )
    crop = f", then the middle {size(told.crop_size)}" if told.HasField("crop_size") else ""
    way = pb.Resample.Name(told.resample).removeprefix("RESAMPLE_").lower()
    pairs = [
        ("Contract", code(told.contract)),
        ("Bound", escape(told.bound)),
        ("Resize", f"{edge}, {way}{crop}"),
        ("Rescale", f"{TIMES.strip()} {told.rescale_factor:.6g}"),
        ("Mean", escape(_numbers(told.mean))),
        ("Deviation", escape(_numbers(told.std))),
        ("16 bits", escape(told.high_depth or "refused")),
    ]
    return facts([(key, value) for key, value in pairs if value])


def shape(axes: Sequence[pb.Axis]) -> str:
    """`B × 196 × 768`."""
    return TIMES.join(str(axis.size or ("B" if axis.name == "batch" else axis.name)) for axis in axes)


def tokens(item: pb.Output) -> str:
    """`1 CLS + 196 patches`, or that it is one vector."""
    if not specs.has_patches(item):
        return "one vector for an image"
    names = [pb.PrefixToken.Name(kind).removeprefix("PREFIX_TOKEN_") for kind in item.prefix_tokens]
    names = [name if name == "CLS" else name.lower() for name in names]
    front = [count(names.count(name), name) for name in dict.fromkeys(names)]
    whole = item.axes[1].size
    patches = count(whole - len(names), "patch", "patches") if whole else "the patches"
    return " + ".join([*front, patches])


def _reservations(item: pb.Output) -> list[str]:
    said = [] if item.trained else ["A part of its weights is untrained."]
    if item.prefix_tokens and not item.image_dependent_prefix:
        said.append("The tokens in front of the patches do not depend on the image.")
    return said


def _image(item: pb.Architecture) -> str:
    if not item.HasField("image_size"):
        return ""
    channels = f", {count(item.in_channels, 'channel')}" if item.in_channels else ""
    proven = f"; {size(item.min_size)} to {size(item.max_size)} proven" if item.HasField("max_size") else ""
    return f"{size(item.image_size)} pixels{channels}{proven}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _normalised(spec: pb.ModelSpec, item: pb.GraphInput) -> str:
    if not spec.HasField("preprocessing"):
        return "none"
    return "in the graph" if item.folded else "before the graph"


def _takes_tokens(spec: pb.ModelSpec) -> bool:
    return all([axis.name for axis in graph.input.axes][1:2] == ["token"] for graph in spec.graphs)


def _grid(spec: pb.ModelSpec) -> str:
    return f"{spec.architecture.grid.height}{TIMES}{spec.architecture.grid.width}"


def size(item: tensor_pb2.ImageSize) -> str:
    """`224 × 224`."""
    return f"{item.height}{TIMES}{item.width}"
