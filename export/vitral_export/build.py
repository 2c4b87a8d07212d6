"""The thread of an export: load, wrap, export, optimise, verify, write, install."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from torch import nn

from vitral.errors import InvalidArgumentError, UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral_export import artifact, onnx_graph, preprocessing, repository, signing, sources, verify
from vitral_export.adopted import Adopted
from vitral_export.contract import RAW
from vitral_export.dynamic_size import widened
from vitral_export.loaded import Loaded, Options
from vitral_export.precision import kinds as precisions
from vitral_export.precision.kinds import FLOAT32
from vitral_export.preprocessing import Choice, HighDepth
from vitral_export.progress import Report, told
from vitral_export.wrap import Inference

Known = TypeVar("Known", Loaded, Adopted)


@dataclass(frozen=True)
class Exported:
    """What an export left behind.

    Attributes:
        path: the version folder.
        spec: its manifest.
        changed: False where the newest version is whole and has this identity already: nothing was written.
    """

    path: Path
    spec: pb.ModelSpec
    changed: bool


def export(
    module: nn.Module,
    *,
    name: str,
    repo: str | os.PathLike[str],
    preprocessing: Choice = "auto",
    high_depth: HighDepth = "refuse",
    opset: int = onnx_graph.DEFAULT_OPSET,
    dynamic_size: bool = False,
    precision: str = FLOAT32,
    options: Options | None = None,
    progress: Report | None = None,
    sign: str | os.PathLike[str] | None = None,
) -> Exported:
    """Exports a module with the weights it has, proves it, and installs it as the next version of NAME.

    Args:
        module: any module from images to tensors, trained or not. It is not changed.
        name: folder of the model in the repository.
        repo: the repository; made where it is missing.
        preprocessing: `auto` for the module's usual one, `none`, or see `vitral_export.preprocessing.Choice`.
        high_depth: `refuse` 16-bit grey pictures, or `scale` them to 8 bits.
        opset: ONNX operator set, 18 to 23; from 23 on attention is one operator.
        precision: float32, float16, float16-storage or int8; see `vitral_export.precision.kinds`.
        dynamic_size: take images of any height and width that are multiples of the patch, in a proven range.
        options: which outputs, and what a module of one's own does not say itself: its image and patch size,
            its channels, the tokens in front of the patches.
        progress: called with every stage of a long export, see `vitral_export.progress`.
        sign: PEM file of the Ed25519 private key that signs the manifest; None: it is not signed.

    Raises:
        UnsupportedError: the module gives something that cannot be exported, or knows one size only.
        InvalidArgumentError: an argument or a weight is not possible, or NAME has another signature.
        ProofError: the export does not agree with the module. Nothing is installed then.
    """
    return build(
        sources.given(module, options),
        name=name,
        repo=repo,
        preprocessing=preprocessing,
        high_depth=high_depth,
        opset=opset,
        dynamic_size=dynamic_size,
        progress=progress,
        precision=precision,
        sign=sign,
    )


def build(
    loaded: Loaded,
    *,
    name: str,
    repo: str | os.PathLike[str],
    preprocessing: Choice = "auto",
    high_depth: HighDepth = "refuse",
    opset: int = onnx_graph.DEFAULT_OPSET,
    dynamic_size: bool = False,
    progress: Report | None = None,
    precision: str = FLOAT32,
    sign: str | os.PathLike[str] | None = None,
) -> Exported:
    """Exports a loaded source; see `export`."""
    onnx_graph.check_opset(opset)
    precisions.check(precision)
    repository.check_name(name)
    folder = repository.check_repo(repo)
    signer = None if sign is None else signing.signer(sign)
    sized = widened(loaded) if dynamic_size else loaded
    chosen = with_preprocessing(sized, preprocessing, high_depth=high_depth)
    if dynamic_size and chosen.preprocessing is not None and chosen.preprocessing.contract == RAW:
        raise UnsupportedError(f"contract {RAW} resizes nothing: it takes images of one size only")
    wrapped = Inference(chosen)
    with told(progress), repository.staging(folder, name) as stage:
        spec = artifact.write_graphs(
            stage.folder, wrapped, chosen, name=name, opset=opset, precision=precision
        )
        same = stage.installed(spec.fingerprint)
        if same is not None:
            signing.write(signer, same.folder)
            return Exported(same.folder, same.spec, changed=False)
        stage.demand_signature(spec)
        artifact.write_proof(stage.folder, spec, verify.prove(stage.folder, spec, wrapped))
        verify.rehearse(stage.folder)
        signing.write(signer, stage.folder)
        return Exported(stage.install(spec), spec, changed=True)


def with_preprocessing(loaded: Known, choice: Choice, *, high_depth: HighDepth = "refuse") -> Known:
    """The source with the preprocessing that was asked for.

    Raises:
        InvalidArgumentError: it does not fit the module.
    """
    size, own = loaded.architecture.image_size, loaded.preprocessing
    if loaded.undecided:
        if isinstance(choice, str) and choice in preprocessing.OF_THE_SOURCE:
            raise InvalidArgumentError(loaded.undecided)
        own = preprocessing.default(size.height)
    channels = loaded.architecture.in_channels
    chosen = preprocessing.choose(choice, own=own, size=size, channels=channels, high_depth=high_depth)
    return replace(loaded, preprocessing=chosen)
