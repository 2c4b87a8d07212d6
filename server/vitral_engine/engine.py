"""A model opened, checked, replayed and warmed; the same for the server and in process."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import PIL

from vitral import decode as decodes
from vitral import spec as specs
from vitral.dynamic import Size
from vitral.errors import ImageError, ImageErrors, InvalidArgumentError
from vitral.results import Embedding
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine import goldens, image, rows
from vitral_engine.arrangement import Arrangement, arrange
from vitral_engine.artifact import Artifact, open_artifact
from vitral_engine.device import Placement, place
from vitral_engine.placement import TENSORRT
from vitral_engine.preprocess import Preprocessor
from vitral_engine.replay import ReplayRow, demand, replay_session
from vitral_engine.rows import Image
from vitral_engine.session import GraphSession, SessionOptions
from vitral_engine.signature import trusted
from vitral_engine.sized import Sized, Sizes
from vitral_engine.staging import DEFAULT, Staging

log = logging.getLogger(__name__)


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
        intake: from pictures to rows of the native size.
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
        # TensorRT would build an engine for each size, for minutes, while callers wait.
        native_on = placement.device if placement.provider == TENSORRT else ""
        self._sizes = Sizes(spec, max_pixels=max_pixels, decode=decode, native_on=native_on)
        self.intake = self.at(None).intake
        main = specs.main_graph(spec)
        options = {graph.file: cores.options(first=graph == main, staging=staging) for graph in spec.graphs}
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

    def at(self, size: Size | None) -> Sized:
        """What it is at an image size (height, width); None: at the native one.

        Raises:
            InvalidArgumentError: it does not take this size; the message names those it does.
            UnsupportedError: it does not on this device.
        """
        return self._sizes.at(size)

    def session_for(self, outputs: Sequence[str], *, prepared: bool) -> GraphSession:
        """The session of the cheapest graph that gives these outputs from this kind of input."""
        return self.sessions[specs.cheapest_graph(self.spec, outputs, pixels=not prepared).file]

    def warm(self, rows: int) -> None:
        """Runs every graph at batch 1, at `rows` and at every bucket: no caller pays for a first run."""
        for session in self.sessions.values():
            session.warm(rows)

    def embed(
        self,
        images: Sequence[Image],
        *,
        outputs: Sequence[str] | None = None,
        dtype: str = "float32",
        size: Size | None = None,
    ) -> list[Embedding]:
        """Embeds images in process.

        Args:
            images: paths, file bytes or arrays, see `Image`.
            outputs: output names; None for the model's defaults.
            dtype: "float32" or "float16".
            size: height and width, for models of dynamic size; None: the native ones.

        Raises:
            ImageErrors: some images failed; the others' embeddings are in it.
            InvalidArgumentError: an output or dtype is unknown, or the model does not take this size.
        """
        if isinstance(images, str | bytes | np.ndarray):
            raise InvalidArgumentError("embed takes a list of images; wrap a single one in a list")
        if dtype not in ("float32", "float16"):
            raise InvalidArgumentError(f"unknown dtype {dtype!r}; float32 and float16 are known")
        sized, names = self.at(size), list(outputs or self.spec.default_outputs)
        for name in names:
            specs.output(self.spec, name)
        specs.demand_numbers(self.spec, names)
        session = self.session_for(names, prepared=False)
        found = [rows.read(sized.intake, item, session.graph, index) for index, item in enumerate(images)]
        good = [row for row in found if not isinstance(row, ImageError)]
        arrays = iter(rows.run(session, good, names, np.dtype(dtype), sized.size))
        results = [
            row if isinstance(row, ImageError) else self._embedding(next(arrays), sized) for row in found
        ]
        failed = any(isinstance(result, ImageError) for result in results)
        if failed:
            raise ImageErrors(results)
        return [result for result in results if isinstance(result, Embedding)]

    def close(self) -> None:
        """Lets the sessions go."""
        self.sessions.clear()

    def _embedding(self, arrays: dict[str, Array], sized: Sized) -> Embedding:
        grid = sized.spec.architecture.grid
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
