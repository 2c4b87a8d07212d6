"""What would be served from a repository, opened and timed as the server would."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from vitral import spec as specs
from vitral.errors import ModelNotFoundError, VitralError
from vitral_engine import artifact, triton
from vitral_engine.arrangement import arrange
from vitral_engine.device import CPU, Placement
from vitral_engine.engine import Model
from vitral_engine.image import MAX_PIXELS
from vitral_engine.session import GraphSession

BATCHES = (1, 8)
"""Batch sizes that are timed."""

_SECONDS = 0.15  # of each timing


@dataclass(frozen=True)
class Speed:
    """Runs of the graph that pictures take, without decoding.

    Attributes:
        batch: images of one run.
        threads: intra-op threads.
        images_per_s: images a second.
    """

    batch: int
    threads: int
    images_per_s: float


@dataclass(frozen=True)
class Examined:
    """One model of the repository.

    Attributes:
        name: of the model.
        version: that would be served; "" where none can be.
        faults: why newer versions, or all, cannot be.
        provider, device: what it opened on.
        proven_on: providers its proof holds for.
        rel_l2, rel_l2_budget: of the goldens, replayed here.
        pixels_equal: whether the golden photograph gave the recorded pixels; `pixels_note` says why not.
        weights: where they are from, in words.
        random: whether they were never trained.
        unproven: why it was never proven; empty where it was.
        load_ms: to open it and replay its goldens.
        speeds: what was timed; none where the time was up.
    """

    name: str
    version: str = ""
    faults: tuple[str, ...] = ()
    provider: str = ""
    device: str = ""
    proven_on: tuple[str, ...] = ()
    rel_l2: float = 0.0
    rel_l2_budget: float = 0.0
    pixels_equal: bool = True
    pixels_note: str = ""
    weights: str = ""
    random: bool = False
    unproven: str = ""
    load_ms: float = 0.0
    speeds: tuple[Speed, ...] = ()


def examine(
    repo: Path, names: Sequence[str], placement: Placement, *, threads: int, until: float
) -> Iterator[Examined]:
    """Each model, or those named, by name. Models are opened in any case, and timed until that moment.

    Raises:
        ModelNotFoundError: there is no repository, it is empty, or a named model is not in it.
    """
    folders = {folder.name: folder for folder in artifact.models(repo)}
    if not folders:
        raise ModelNotFoundError(f"{repo} holds no model: run vitral-export build first")
    if missing := [name for name in names if name not in folders]:
        raise ModelNotFoundError(f"no model {missing[0]!r} in {repo}; there are {', '.join(folders)}")
    for name in names or folders:
        yield _newest(folders[name], placement, threads, until)


def _newest(folder: Path, placement: Placement, threads: int, until: float) -> Examined:
    """The newest version that opens; the server, too, tries them in this order."""
    faults: list[str] = []
    for version in reversed(artifact.versions(folder)):
        try:
            with _quiet():
                return _examined(folder / str(version), placement, threads, until, tuple(faults))
        except Exception as error:  # however damaged it is, it must not hide the others
            said = str(error) if isinstance(error, VitralError) else f"{type(error).__name__}: {error}"
            faults.append(f"version {version}: {said}")
    return Examined(folder.name, faults=tuple(faults))


def _examined(
    folder: Path, placement: Placement, threads: int, until: float, faults: tuple[str, ...]
) -> Examined:
    start = perf_counter()
    found = artifact.open_artifact(folder)
    triton.limits(folder.parent, found.spec)
    model = Model(found, placement, cores=arrange(placement, threads=threads), max_pixels=MAX_PIXELS)
    load_ms = (perf_counter() - start) * 1e3
    model.close()
    spec, replayed = found.spec, model.replayed
    note = spec.source.weights_note or spec.source.reference
    return Examined(
        name=folder.parent.name,
        version=folder.name,
        faults=faults,
        provider=placement.provider,
        device=placement.device,
        proven_on=tuple(spec.proof.providers),
        rel_l2=replayed.rel_l2,
        rel_l2_budget=replayed.rel_l2_budget,
        pixels_equal=replayed.pixels_equal,
        pixels_note=replayed.pixels_note,
        weights=note or ("random weights" if specs.is_random(spec) else ""),
        random=specs.is_random(spec),
        unproven=specs.unproven(spec) if specs.is_unproven(spec) else "",
        load_ms=load_ms,
        speeds=tuple(_speeds(found, placement, threads, until)),
    )


def _speeds(found: artifact.Artifact, placement: Placement, threads: int, until: float) -> Iterator[Speed]:
    """On a CPU with one thread and with all; elsewhere threads do not count."""
    spec = found.spec
    graph = specs.cheapest_graph(spec, list(spec.default_outputs), pixels=spec.HasField("preprocessing"))
    for count in sorted({1, threads} if placement.provider == CPU else {threads}):
        if perf_counter() > until:
            return
        options = arrange(placement, threads=count).options(first=graph == specs.main_graph(spec))
        file = found.folder / graph.file
        session = GraphSession(file, graph, spec, placement=placement, options=options)
        for batch in BATCHES:
            if perf_counter() < until:
                yield Speed(batch, count, _rate(session, batch))


def _rate(session: GraphSession, batch: int) -> float:
    buffers = session.allocate(batch)
    start = perf_counter()
    session.run_bound(buffers, batch)
    runs, took = 1, perf_counter() - start
    if took < _SECONDS:  # the first run of a small model is mostly set-up
        runs, start = 0, perf_counter()
        while (took := perf_counter() - start) < _SECONDS:
            session.run_bound(buffers, batch)
            runs += 1
    return runs * batch / took


@contextmanager
def _quiet() -> Iterator[None]:
    """What the engine would log stands in the report."""
    log = logging.getLogger("vitral_engine")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
