"""A model opened, checked, replayed and warmed; the same for the server and in process."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from vitral import decode as decodes
from vitral import spec as specs
from vitral.errors import ImageError, ImageErrors, InvalidArgumentError
from vitral.results import Embedding
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine import goldens, image
from vitral_engine.arrangement import Arrangement, arrange
from vitral_engine.artifact import Artifact, open_artifact
from vitral_engine.device import Placement, place
from vitral_engine.half import cast
from vitral_engine.intake import Intake
from vitral_engine.preprocess import Preprocessor
from vitral_engine.replay import ReplayRow, demand, replay_session
from vitral_engine.session import GraphSession, SessionOptions
from vitral_engine.signature import trusted
from vitral_engine.staging import DEFAULT, Staging

log = logging.getLogger(__name__)

Image = str | os.PathLike[str] | bytes | NDArray[np.uint8]
"""A path, the bytes of an image file, or uint8 pixels (H, W, 3)."""

_BATCH = 8
"""Rows of one run in process: larger ones fall out of the CPU's cache."""


@dataclass(frozen=True)
class Replayed:
    """How the goldens came out on the provider in use.

    Attributes:
        rel_l2, rel_l2_budget: of the output that came closest to its budget.
        pixels_equal: whether the golden photograph gave the recorded pixels.
        pixels_note: the libraries then and now, where it did not. The photograph is decoded exactly.
    """

    rel_l2: float
    rel_l2_budget: float
    pixels_equal: bool
    pixels_note: str


class Model:
    """An open model. Made by `open`; any thread may call it.

    Attributes:
        artifact: its files.
        placement: where it runs.
        decode: how image files are decoded, "exact" or "fast".
        intake: from pictures to rows.
        sessions: graph file to its session.
        replayed: how its goldens came out.
        load_ms: that opening took.
    """

    def __init__(
        self,
        artifact: Artifact,
        placement: Placement,
        *,
        cores: Arrangement,
        max_pixels: int,
        staging: Staging = DEFAULT,
        decode: str = decodes.EXACT,
    ) -> None:
        start = perf_counter()
        spec = artifact.spec
        self.artifact = artifact
        self.placement = placement
        self.decode = decode
        self.intake = Intake(spec, max_pixels=max_pixels, decode=decode)
        options = {
            graph.file: cores.options(first=position == 0, staging=staging)
            for position, graph in enumerate(spec.graphs)
        }
        self.sessions = {
            graph.file: GraphSession(
                artifact.folder / graph.file, graph, spec, placement=placement, options=options[graph.file]
            )
            for graph in spec.graphs
        }
        self.replayed = _replay(artifact, self.sessions, options)
        self.load_ms = (perf_counter() - start) * 1e3

    @property
    def spec(self) -> pb.ModelSpec:
        """What was exported."""
        return self.artifact.spec

    @property
    def version(self) -> str:
        """Folder name of the version."""
        return self.artifact.version

    def session_for(self, outputs: Sequence[str], *, prepared: bool) -> GraphSession:
        """The session of the cheapest graph that gives these outputs from this kind of input."""
        return self.sessions[specs.cheapest_graph(self.spec, outputs, pixels=not prepared).file]

    def warm(self, rows: int) -> None:
        """Runs every graph at batch 1, at `rows` and at every bucket: no caller pays for a first run."""
        for session in self.sessions.values():
            session.warm(rows)

    def embed(
        self, images: Sequence[Image], *, outputs: Sequence[str] | None = None, dtype: str = "float32"
    ) -> list[Embedding]:
        """Embeds images in process.

        Args:
            images: paths, file bytes or uint8 (H, W, 3) arrays.
            outputs: output names; None for the model's defaults.
            dtype: "float32" or "float16".

        Raises:
            ImageErrors: some images failed; the others' embeddings are in it.
            InvalidArgumentError: an output or dtype is unknown.
        """
        if isinstance(images, str | bytes | np.ndarray):
            raise InvalidArgumentError("embed takes a list of images; wrap a single one in a list")
        if dtype not in ("float32", "float16"):
            raise InvalidArgumentError(f"unknown dtype {dtype!r}; float32 and float16 are known")
        names = list(outputs or self.spec.default_outputs)
        for name in names:
            specs.output(self.spec, name)
        specs.demand_numbers(self.spec, names)
        session = self.session_for(names, prepared=False)
        rows = [self._row(item, session.graph, index) for index, item in enumerate(images)]
        good = [row for row in rows if not isinstance(row, ImageError)]
        arrays = iter(_run(session, good, names, np.dtype(dtype)))
        results = [row if isinstance(row, ImageError) else self._embedding(next(arrays)) for row in rows]
        failed = any(isinstance(result, ImageError) for result in results)
        if failed:
            raise ImageErrors(results)
        return [result for result in results if isinstance(result, Embedding)]

    def close(self) -> None:
        """Lets the sessions go."""
        self.sessions.clear()

    def _row(self, item: Image, graph: pb.Graph, index: int) -> Array | ImageError:
        try:
            if isinstance(item, np.ndarray):
                return self.intake.pixels(item, graph).array
            data = item if isinstance(item, bytes) else Path(item).read_bytes()
            return self.intake.encoded(data, graph).array
        except OSError as error:
            return ImageError(f"cannot read {item!r}: {error.strerror}", cause="unreadable", index=index)
        except ImageError as error:
            error.index = index
            return error

    def _embedding(self, arrays: dict[str, Array]) -> Embedding:
        grid = self.spec.architecture.grid
        return Embedding(
            arrays,
            (grid.height, grid.width),
            self.spec,
            self.version,
            decode=self.decode,
            unproven=specs.is_unproven(self.spec),
        )


def open(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int = 0,
    max_pixels: int = image.MAX_PIXELS,
    staging: Staging = DEFAULT,
    decode: str = decodes.EXACT,
    trust: Sequence[str | os.PathLike[str]] = (),
) -> Model:
    """Opens `REPO/NAME` (newest version) or `REPO/NAME/VERSION`, checks hashes and replays its proof.

    Args:
        path: folder of the model or of one version.
        device: "auto", "cpu", "cuda[:N]" or "tensorrt[:N]".
        threads: intra-op threads of a run; 0 for every core this process may use.
        max_pixels: most pixels of one image.
        staging: how batches get to a device.
        decode: "exact", or "fast": JPEGs whose sides are at least three times those of the resized picture
            are decoded at a half, a quarter or an eighth of them, which gives slightly other pixels.
        trust: public keys (PEM files, Ed25519) of which one has to have signed the model; none: any model.

    Raises:
        InvalidArgumentError: there is no such decode, or a key cannot be read.
        ModelNotFoundError: there is no such folder.
        ArtifactError: the artifact is damaged, contradicts itself, or is not signed by one of the keys.
        ProofError: the model does not agree with its proof on this device.
        DeviceError: the device does not work here.
    """
    placement = place(device)
    found = open_artifact(Path(path), trust=trusted(trust))
    cores = arrange(placement, threads=threads)
    return Model(found, placement, cores=cores, max_pixels=max_pixels, staging=staging, decode=decode)


def _run(
    session: GraphSession, rows: Sequence[Array], names: Sequence[str], dtype: np.dtype[Any]
) -> list[dict[str, Array]]:
    results: list[dict[str, Array]] = []
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        with session.lease(_BATCH) as buffers:
            for place, row in enumerate(part):
                buffers.fill(place, row)
            session.run_bound(buffers, len(part))
            results += [
                {name: _copy(buffers.outputs[name][i], dtype) for name in names} for i in range(len(part))
            ]
    return results


def _copy(source: Array, dtype: np.dtype[Any]) -> Array:
    """The buffers go back to their owner, the results to the caller."""
    made = np.empty(source.shape, dtype)
    cast(source, made)
    return made


def _replay(
    artifact: Artifact, sessions: Mapping[str, GraphSession], options: Mapping[str, SessionOptions]
) -> Replayed:
    spec = artifact.spec
    golden = goldens.load(artifact.folder, spec)
    found: list[ReplayRow] = []
    for file, session in sessions.items():
        sizes = _replay_sizes(session, len(golden.inputs[file]))
        found += replay_session(session, spec, golden, options=options[file], batches=sizes)
        if session.has_crowd:
            found += replay_session(session, spec, golden, options=options[file], batches=sizes, alone=False)
    demand(found, model=spec.name)
    provider = next(iter(sessions.values())).placement.provider
    if provider not in spec.proof.providers:
        ran = ", ".join(spec.proof.providers)
        log.info("model %s: its proof ran on %s; here only its goldens ran on %s", spec.name, ran, provider)
    closest = max(found, key=lambda row: row.rel_l2 / row.rel_l2_budget)
    equal, note = _same_pixels(artifact)
    if not equal:
        log.warning("model %s: pixels_equal=false: %s", spec.name, note)
    return Replayed(closest.rel_l2, closest.rel_l2_budget, equal, note)


def _replay_sizes(session: GraphSession, goldens: int) -> list[int]:
    """Batch sizes to replay; those of a device are warmed here.

    Each bucket has kernels, or a captured graph, of its own, and each lane has them again: all are
    replayed, one of them padded. Lanes take turns. Warmed with zeros, a graph that repeats its first result
    cannot pass.
    """
    if session.stage is None or not session.buckets:
        return [1, goldens]
    largest = session.buckets[-1]
    session.warm(largest)
    sizes = sorted({1, goldens, min(3, largest), *session.buckets})
    return [size for size in sizes for _ in session.stage.lanes]


def _same_pixels(artifact: Artifact) -> tuple[bool, str]:
    """Whether decoding and resizing the golden photograph gives the recorded pixels here."""
    photograph = artifact.spec.proof.photograph
    if not photograph.file:
        return True, ""
    data = (artifact.folder / photograph.file).read_bytes()
    pixels = Preprocessor(artifact.spec.preprocessing).resize(image.open_rgb(data))
    if hashlib.sha256(pixels.tobytes()).hexdigest() == photograph.pixels_sha256:
        return True, ""
    then = photograph.libraries.get("pillow", "unknown")
    return False, f"exported with Pillow {then}, running with Pillow {PIL.__version__}"
