"""The models of a repository: opened, replayed, warmed, or listed with the reason why not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from vitral.errors import (
    ArtifactError,
    InvalidArgumentError,
    ModelNotFoundError,
    UnavailableError,
    VitralError,
)
from vitral.spec import is_unproven
from vitral_engine import artifact, triton
from vitral_engine.arrangement import arrange
from vitral_engine.engine import Model
from vitral_engine.placement import CPU, Placement
from vitral_engine.session import GraphSession
from vitral_engine.signature import trusted
from vitral_engine.staging import Staging
from vitral_server.batcher import Batcher, BatchOptions
from vitral_server.config import ServerConfig
from vitral_server.demands import Demands
from vitral_server.telemetry import OFF, Telemetry

log = logging.getLogger(__name__)

CPU_BATCH = 8
"""Largest batch of one run on a CPU where no flag says so: larger ones fall out of its cache."""


@dataclass(frozen=True)
class Served:
    """One version of a model on this server.

    Attributes:
        name, version: of its folder.
        engine: the open model; None when it could not be opened.
        batchers: graph file to the queue in front of it.
        reason: why it could not be opened.
        max_batch: largest batch of one run.
        load_ms: from opening the folder to ready.
    """

    name: str
    version: str
    engine: Model | None = None
    batchers: dict[str, Batcher] = field(default_factory=dict)
    reason: str = ""
    max_batch: int = 0
    load_ms: float = 0.0

    @property
    def unproven(self) -> bool:
        """Whether it is open, and was never proven against a reference."""
        return self.engine is not None and is_unproven(self.engine.spec)

    @property
    def fault(self) -> str:
        """Why it does not serve; empty while it does."""
        faults = (batcher.fault() for batcher in self.batchers.values())
        return self.reason or next((fault for fault in faults if fault), "")

    def batcher_of(self, session: GraphSession) -> Batcher:
        """The queue in front of a session of this model."""
        return self.batchers[session.graph.file]


class Registry:
    """Every model of the repository. Filled once, before the server answers."""

    def __init__(self, models: Sequence[Served], *, named: Sequence[str]) -> None:
        self.models = sorted(models, key=lambda model: (model.name, int(model.version)))
        self._named = tuple(named)

    @property
    def names(self) -> list[str]:
        """Names of all models, the failed ones included."""
        return sorted({model.name for model in self.models})

    def is_ready(self, name: str) -> bool:
        """Whether some version of this model serves."""
        return any(model.name == name and not model.fault for model in self.models)

    @property
    def ready(self) -> bool:
        """Whether every named model serves; without names, whether at least one does."""
        states = [self.is_ready(name) for name in self._named or self.names]
        return all(states) and bool(states) if self._named else any(states)

    def is_unproven(self, name: str) -> bool:
        """Whether some version of this model serves unproven; without a name, whether any model does."""
        return any(model.unproven and not model.fault and name in ("", model.name) for model in self.models)

    def find(self, name: str, version: str) -> Served:
        """The model of this name and version, ready or not; defaults as the contract says.

        Raises:
            InvalidArgumentError: no name, and not exactly one model.
            ModelNotFoundError: no such model or version.
        """
        if not name and len(self.names) != 1:
            known = ", ".join(self.names)
            raise InvalidArgumentError(f"no model named, and {len(self.names)} are served: {known}")
        wanted = name or self.names[0]
        versions = [model for model in self.models if model.name == wanted]
        if not versions:
            raise ModelNotFoundError(f"no model {wanted!r}; served are {', '.join(self.names)}")
        if not version:
            ready = [model for model in versions if not model.fault]
            return (ready or versions)[-1]
        for model in versions:
            if model.version == version:
                return model
        known = ", ".join(model.version for model in versions)
        raise ModelNotFoundError(f"model {wanted} has no version {version!r} here; served are {known}")

    def engine_of(self, name: str, version: str) -> tuple[Served, Model]:
        """The same, and its engine.

        Raises:
            UnavailableError: the model does not serve; the message says why.
        """
        served = self.find(name, version)
        if served.engine is None or served.fault:
            raise UnavailableError(
                f"model {served.name} version {served.version} is not ready: {served.fault}"
            )
        return served, served.engine

    def close(self) -> None:
        """Ends every run thread."""
        for model in self.models:
            for batcher in model.batchers.values():
                batcher.close()


def load(config: ServerConfig, placement: Placement, telemetry: Telemetry = OFF) -> Registry:
    """Opens every model, or those named, in the versions that config.pbtxt asks for: else the newest.

    Without names, a version that cannot be opened is listed as failed and the next older one is tried.

    Raises:
        ModelNotFoundError: there is no such repository or named model, or it holds none at all.
        VitralError: a named model could not be opened.
    """
    folders = {folder.name: folder for folder in artifact.models(config.repo)}
    if missing := [name for name in config.models if name not in folders]:
        known = ", ".join(folders) or "none"
        raise ModelNotFoundError(f"no model {missing[0]!r} in {config.repo}; there are {known}")
    if not folders:
        raise ModelNotFoundError(f"{config.repo} holds no model: run vitral-export build first")
    models: list[Served] = []
    demands = Demands(trusted(config.trust), proven=config.require_proven)
    for name in config.models or tuple(folders):
        models += _versions(folders[name], config, placement, telemetry, demands)
    return Registry(models, named=config.models)


def _versions(
    folder: Path, config: ServerConfig, placement: Placement, telemetry: Telemetry, demands: Demands
) -> list[Served]:
    """Those that config.pbtxt asks for; one that cannot be opened is listed, and the next older one tried."""
    there = artifact.versions(folder)
    try:
        wanted, count = triton.wanted(folder, there)
    except VitralError as error:
        return [_failed(folder, str(there[-1]), error, config)]
    tried: list[Served] = []
    for version in map(str, wanted):
        if sum(not model.reason for model in tried) == count:
            break
        try:
            tried.append(_open(folder, version, config, placement, telemetry, demands))
        except Exception as error:  # one model, however damaged, must not take the others with it
            tried.append(_failed(folder, version, error, config))
    return tried


def _failed(folder: Path, version: str, error: Exception, config: ServerConfig) -> Served:
    reason = str(error) if isinstance(error, VitralError) else f"{type(error).__name__}: {error}"
    if config.models:
        raise ArtifactError(f"model {folder.name} version {version}: {reason}") from error
    fields = {"model": folder.name, "version": version, "reason": reason}
    log.error("model failed to load", extra=fields)
    return Served(folder.name, version, reason=reason)


def _open(
    folder: Path,
    version: str,
    config: ServerConfig,
    placement: Placement,
    telemetry: Telemetry,
    demands: Demands,
) -> Served:
    start = perf_counter()
    found = demands.open(folder / version)
    taken = triton.limits(folder, found.spec)
    if taken.ignored:
        log.info("config.pbtxt: fields ignored", extra={"model": folder.name, "fields": list(taken.ignored)})
    cores = arrange(placement, threads=config.threads, runs=config.instances or taken.instances)
    most = CPU_BATCH if placement.provider == CPU else taken.max_batch_size
    max_batch = config.max_batch_size or min(taken.max_batch_size, most)
    staging = Staging(config.batch_buckets, config.cuda_graphs == "on", cores.runs, max_batch)
    engine = Model(
        found,
        placement,
        cores=cores,
        max_pixels=config.max_image_pixels,
        staging=staging,
        decode=config.decode,
    )
    engine.warm(max_batch)
    options = BatchOptions(
        max_batch=max_batch,
        instances=cores.runs,
        max_queue=taken.max_queue,
        delay=config.queue_delay_ms / 1e3,
        run_timeout=config.run_timeout,
    )
    batchers = {
        file: Batcher(session, options, name=f"{folder.name} {file}", runs=telemetry.runs(folder.name))
        for file, session in engine.sessions.items()
    }
    load_ms = (perf_counter() - start) * 1e3
    return Served(folder.name, version, engine, batchers, max_batch=max_batch, load_ms=load_ms)
