"""The thread of an adoption: read, look, write, hold to a reference or to itself, install."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from vitral import spec as specs
from vitral.errors import InvalidArgumentError, ProofError
from vitral_export import (
    adopted,
    adopted_graphs,
    adopted_proof,
    artifact,
    fold,
    onnx_file,
    repository,
    signing,
    sources,
    verify,
)
from vitral_export.adopted import Adopted
from vitral_export.build import Exported, with_preprocessing
from vitral_export.families import own
from vitral_export.loaded import Loaded, Options
from vitral_export.preprocessing import Choice, HighDepth
from vitral_export.repository import Stage
from vitral_export.signing import Signer

log = logging.getLogger(__name__)


def adopt(
    file: str | os.PathLike[str],
    *,
    name: str,
    repo: str | os.PathLike[str],
    reference: str | Loaded | None = None,
    preprocessing: Choice = "auto",
    high_depth: HighDepth = "refuse",
    options: Options | None = None,
    sign: str | os.PathLike[str] | None = None,
) -> Exported:
    """Installs an ONNX file of someone else's as the next version of NAME.

    Args:
        file: the .onnx file, with `onnx:` in front or without.
        name: folder of the model in the repository.
        repo: the repository; made where it is missing.
        reference: the PyTorch module that the file is an export of, as a source: the model is proven against
            it. None: it is installed as unproven.
        preprocessing: see `vitral_export.export`; `auto`: preprocessor_config.json beside it, or one up.
        high_depth: see `vitral_export.export`.
        options: outputs (`NAME`, or `NAME=OUTPUT_OF_THE_FILE`); sizes and prefix tokens where neither the
            file nor config.json says them; seed, weights and revision of the reference.
        sign: see `vitral_export.export`.

    Raises:
        InvalidArgumentError: the file cannot be served, does not say what it is, or is of another signature.
        UnsupportedError: an output is nothing that can be served.
        ProofError: the file does not agree with its reference, or with itself. Nothing is installed then.
    """
    repository.check_name(name)
    folder = repository.check_repo(repo)
    signer = None if sign is None else signing.signer(sign)
    asked = os.fspath(file)
    asked = asked if asked.startswith(onnx_file.PREFIX) else f"{onnx_file.PREFIX}{asked}"
    options = options or Options()
    if reference is None:
        options.refuse(
            f"{asked} without a reference", ["embed_dim", "weights", "revision", "allow_untrained"]
        )
    held = onnx_file.read(asked)
    if isinstance(reference, str):
        reference = loaded(reference, options)
    known = adopted.describe(held, options, reference)
    if reference is not None:
        known, reference = adopted_proof.paired(known, reference)
    known = with_preprocessing(known, preprocessing, high_depth=high_depth)
    with repository.staging(folder, name) as stage:
        try:
            return _install(stage, known, reference, name=name, signer=signer)
        except ProofError as error:
            if reference is not None or fold.UINT8_FILE not in str(error):
                raise
            log.info("%s has no uint8 graph: %s", known.file.reference, error)
            for path in stage.folder.iterdir():
                path.unlink()
            return _install(stage, known, reference, name=name, signer=signer, folding=False)


def loaded(reference: str, options: Options) -> Loaded:
    """The source that a file is held against. Sizes are for one that has none itself, else the file's.

    Raises:
        InvalidArgumentError: it is an ONNX file too, or there is no such source.
    """
    if reference.startswith(onnx_file.PREFIX):
        raise InvalidArgumentError(f"{reference} is no reference: a module in PyTorch is needed")
    its = replace(options, outputs=())
    if not reference.startswith(own.PREFIX):
        its = replace(its, prefix_tokens=())
        if reference not in sources.SOURCES:
            its = replace(its, img_size=None, patch_size=None, in_channels=None, embed_dim=None)
    return sources.load(reference, its)


def _install(
    stage: Stage,
    known: Adopted,
    reference: Loaded | None,
    *,
    name: str,
    signer: Signer | None,
    folding: bool = True,
) -> Exported:
    spec = adopted_graphs.write(stage.folder, known, name=name, folding=folding)
    same = stage.installed(spec.fingerprint)
    # One that was unproven is proven now: the same identity, and another version.
    if same is not None and (reference is None or not specs.is_unproven(same.spec)):
        signing.write(signer, same.folder)
        return Exported(same.folder, same.spec, changed=False)
    stage.demand_signature(spec)
    if reference is None:
        done = adopted_proof.record(stage.folder, spec)
    else:
        done = adopted_proof.prove(stage.folder, spec, reference)
    artifact.write_proof(stage.folder, spec, done)
    verify.rehearse(stage.folder)
    signing.write(signer, stage.folder)
    return Exported(stage.install(spec), spec, changed=True)
