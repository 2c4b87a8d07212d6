"""What is known of an adopted ONNX file: sizes, outputs, preprocessing, from it and what lies beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from vitral import __version__
from vitral import spec as specs
from vitral.errors import InvalidArgumentError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine.runtime import require
from vitral_export import onnx_clean, onnx_trial
from vitral_export.families import preprocessed, table
from vitral_export.loaded import PREFIXES, Loaded, Options, axes, float_output, pixel_input
from vitral_export.onnx_file import OnnxFile
from vitral_export.onnx_trial import Shape

Size = tuple[int, int]
"""Height and width."""

_MEANING: Mapping[str, str] = MappingProxyType(
    {
        "last_hidden_state": "tokens after the encoder",
        "pooler_output": "one vector of the picture, as the model pools it",
        "image_embeds": "the picture in the space that it shares with text",
        "logits": "scores of the classifier",
    }
)


@dataclass(frozen=True)
class Adopted:
    """A file and what its artifact will say about it; `Loaded` of a model without a module.

    Attributes:
        file: as it was read.
        model: made plain, its input and outputs named and of known extents, its weights inside.
        input: the float32 graph's input.
        outputs: what is exported, the default one first.
        architecture: its sizes.
        source: where it came from.
        preprocessing: from picture to input; None where only `prepared` is accepted.
        undecided: why nothing says what its pictures go through.
        embedding: tensors of embedding.safetensors, as far as the file begins with a plain projection.
    """

    file: OnnxFile
    model: onnx.ModelProto
    input: pb.GraphInput
    outputs: tuple[pb.Output, ...]
    architecture: pb.Architecture
    source: pb.Source
    preprocessing: pb.Preprocessing | None
    embedding: Mapping[str, Array]
    undecided: str = ""


def describe(file: OnnxFile, options: Options, reference: Loaded | None = None) -> Adopted:
    """Everything about a file, found in it, beside it, in the options, and by running it.

    A reference says its sizes where nothing else does; what its outputs mean is for `adopted_proof.paired`.

    Raises:
        InvalidArgumentError: it does not take one float32 image, its batch is frozen, or a size is not said.
        UnsupportedError: an output is nothing that can be served.
    """
    model = onnx_clean.plain(file.model)
    config = file.config.get("vision_config")
    config = config if isinstance(config, dict) else file.config
    told, undecided = preprocessed.of(file.preprocessor, file.reference)
    image = onnx_trial.image_of(file, model.graph)
    channels = image.channels or _number(config, "num_channels") or options.in_channels or 3
    size = _image_size(file, image.size, config, options, told or getattr(reference, "preprocessing", None))
    wanted = _wanted(file, model.graph, options)
    onnx_clean.cut(model.graph, list(wanted.values()))
    names = {original: name for name, original in wanted.items()}
    onnx_clean.rename(model, names | {image.name: "pixel_values"})
    onnx_clean.shape(model.graph.input[0], [channels, *size])
    found = onnx_trial.run(file, model, (channels, *size))
    for info in model.graph.output:
        onnx_clean.shape(info, found[info.name])
    projection = _projection(model.graph)
    if reference is not None:
        its = reference.architecture.patch_size
        patch = its.height, its.width
        outputs = _outputs(file, found, size, patch, (), ())
    else:
        patch = _patch_size(file, config, options, projection)
        outputs = _outputs(file, found, size, patch, options.prefix_tokens or None, _prefix(config))
    architecture = pb.Architecture(
        module=_module(file.config),
        image_size=tensor_pb2.ImageSize(height=size[0], width=size[1]),
        patch_size=tensor_pb2.ImageSize(height=patch[0], width=patch[1]),
        in_channels=channels,
        embed_dim=outputs[0].axes[-1].size,
        grid=tensor_pb2.Grid(height=size[0] // patch[0], width=size[1] // patch[1]),
    )
    return Adopted(
        file=file,
        model=model,
        input=pixel_input(channels=channels, height=size[0], width=size[1]),
        outputs=outputs,
        architecture=architecture,
        source=_source(file),
        preprocessing=told if channels == 3 else None,
        embedding=projection if projection and projection["projection.weight"].shape[2:] == patch else {},
        undecided=undecided if channels == 3 else "",
    )


def _source(file: OnnxFile) -> pb.Source:
    runtime, _, version = require().partition(" ")
    libraries = {name: metadata.version(name) for name in ("numpy", "onnx")}
    return pb.Source(
        kind="onnx",
        reference=file.reference,
        weights=pb.WEIGHTS_ORIGIN_CHECKPOINT,
        weights_note=f"weights of {file.reference}",
        libraries=libraries | {runtime: version, "vitral": __version__},
        weights_sha256=file.sha256,
    )


def _wanted(file: OnnxFile, graph: onnx.GraphProto, options: Options) -> dict[str, str]:
    """Name of each output to the file's own: those asked for, `NAME` or `NAME=ITS_NAME`, or all."""
    there = [item.name for item in graph.output]
    wanted: dict[str, str] = {}
    for text in options.outputs:
        name, _, own = text.partition("=")
        own = own or next((item for item in there if onnx_clean.clean_name(item) == name), name)
        if own not in there:
            raise InvalidArgumentError(f"{file.name} has no output {own!r}; it has {', '.join(there)}")
        wanted[name] = own
    if not wanted:
        wanted = {onnx_clean.clean_name(name): name for name in there}
        wanted = dict(sorted(wanted.items(), key=lambda pair: pair[0] != "last_hidden_state"))
    if len(set(wanted.values())) < max(len(wanted), len(options.outputs) or len(there)):
        raise InvalidArgumentError(f"{file.name}: outputs {', '.join(wanted)} name one twice")
    for name in wanted:
        if name != onnx_clean.clean_name(name) or name.startswith("pixel"):
            raise InvalidArgumentError(f"{file.name}: an output cannot be called {name!r}")
    return wanted


def _image_size(
    file: OnnxFile,
    fixed: Size | None,
    config: Mapping[str, Any],
    options: Options,
    preprocessing: pb.Preprocessing | None,
) -> Size:
    said = None if options.img_size is None else (options.img_size, options.img_size)
    if fixed is not None and said not in (None, fixed):
        told = f"{file.name} takes images of {fixed[0]} x {fixed[1]}"
        raise InvalidArgumentError(f"{told}, --img-size says {options.img_size}")
    found = said or fixed or _pair(file, config, "image_size")
    if found is None and preprocessing is not None:
        crop = specs.input_size(preprocessing)
        found = (crop.height, crop.width) if crop.height else None
    if found is None:
        raise InvalidArgumentError(f"{file.name} does not say the size of its images: --img-size does")
    return found


def _patch_size(
    file: OnnxFile, config: Mapping[str, Any], options: Options, projection: Mapping[str, Array]
) -> Size:
    if options.patch_size is not None:
        return options.patch_size, options.patch_size
    if (told := _pair(file, config, "patch_size")) is not None:
        return told
    if not projection:
        raise InvalidArgumentError(f"{file.name} does not say the size of its patches: --patch-size does")
    height, width = projection["projection.weight"].shape[2:]
    return height, width


def _projection(graph: onnx.GraphProto) -> dict[str, Array]:
    """Weight (D, C, P, P) and bias (D,) of the convolution that takes the image; empty where none does."""
    held = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type != "Conv" or node.input[0] != "pixel_values" or node.input[1] not in held:
            continue
        arrays = [numpy_helper.to_array(held[name]) for name in node.input[1:] if name in held]
        strides = next((tuple(item.ints) for item in node.attribute if item.name == "strides"), ())
        if arrays[0].ndim == 4 and arrays[0].shape[2:] == strides and arrays[0].dtype == np.float32:
            return dict(zip(("projection.weight", "projection.bias"), arrays, strict=False))
    return {}


def _prefix(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Tokens in front of the patches, where config.json is of a known type."""
    family = table.FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return None
    registers = _number(config, "num_register_tokens") or 0
    counts = [registers if name == "register" else 1 for name in family.prefix]
    return tuple(name for name, count in zip(family.prefix, counts, strict=True) for _ in range(count))


def _outputs(
    file: OnnxFile,
    found: Mapping[str, Shape],
    size: Size,
    patch: Size,
    said: Sequence[str] | None,
    known: Sequence[str] | None,
) -> tuple[pb.Output, ...]:
    """The outputs; tokens in front of the patches are those `said` in the options, or `known` of the type."""
    for token in said or ():
        if token not in PREFIXES:
            raise InvalidArgumentError(f"prefix token {token!r} is unknown; known are {', '.join(PREFIXES)}")
    patches = (size[0] // patch[0]) * (size[1] // patch[1])
    front = [PREFIXES[token] for token in said or known or ()]
    outputs = []
    for name, extents in found.items():
        meaning = _MEANING.get(name, "of the file's own")
        if len(extents) == 2 and extents[0] in (patches, patches + len(front)):
            mine = front if extents[0] > patches else []
            shape = axes(batch=0, token=extents[0], feature=extents[1])
            output = float_output(name, shape, prefix=mine, image_dependent_prefix=True, meaning=meaning)
        elif len(extents) == 2 and said is None and extents[0] > patches:
            told = f"{file.name}: {name} has {extents[0]} tokens for {patches} patches"
            meant = "" if known is None else f" and {len(front)} in front that config.json means"
            raise InvalidArgumentError(f"{told}{meant}: --prefix-tokens says what those in front are")
        else:
            inner = {f"axis_{place}": extent for place, extent in enumerate(extents[:-1], 1)}
            output = float_output(name, axes(batch=0, **inner, feature=extents[-1]), meaning=meaning)
        outputs.append(output)
    if said and _no_front(outputs):
        given = ", ".join(f"{name} {' x '.join(map(str, extents))}" for name, extents in found.items())
        told = f"{len(front)} tokens in front of {patches} patches"
        raise InvalidArgumentError(f"{file.name}: no output has {told}; it gives {given}")
    return tuple(outputs)


def _no_front(outputs: Sequence[pb.Output]) -> bool:
    """Whether there are token sequences, and none of them has tokens in front."""
    sequences = [item for item in outputs if specs.has_patches(item)]
    return bool(sequences) and not any(item.prefix_tokens for item in sequences)


def _module(config: Mapping[str, Any]) -> str:
    known = config.get("architectures")
    return str(known[0]) if isinstance(known, list) and known else "ONNX"


def _number(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if type(value) is int and value > 0 else None


def _pair(file: OnnxFile, config: Mapping[str, Any], key: str) -> Size | None:
    """Height and width of a number, a pair, or a height and a width."""
    value = config.get(key)
    if value is None:
        return None
    parts = list(value.values()) if isinstance(value, dict) else value
    parts = list(parts) if isinstance(parts, list | tuple) else [parts] * 2
    if len(parts) != 2 or any(type(part) is not int or not 0 < part < 1 << 16 for part in parts):
        raise InvalidArgumentError(f"{file.name}: {key} of its config.json is {value!r}, no height and width")
    return parts[0], parts[1]
