"""Cores, shared memory, and the disk that a data set would be written to."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from vitral_engine.runtime import cpu_count

SHM = Path("/dev", "shm")
"""Shared memory; it is looked at, and nothing is written there."""

_CHUNK = 8 * 2**20
_CHUNKS = 16
_LONGEST = 1.5  # seconds of writing


@dataclass(frozen=True)
class Machine:
    """What there is to work with.

    Attributes:
        cores: of the host.
        usable: of these, what affinity and the container's CPU quota leave this process.
        shm_bytes: size of /dev/shm; None where there is none.
        load: processes that wanted a core over the last minute; None where the system does not tell.
    """

    cores: int
    usable: int
    shm_bytes: int | None
    load: float | None = None


@dataclass(frozen=True)
class Disk:
    """A folder to write to.

    Attributes:
        folder: the folder.
        free: bytes.
        bytes_per_s: written and synced; 0 where nothing could be written.
        fault: why not.
    """

    folder: Path
    free: int
    bytes_per_s: float = 0.0
    fault: str = ""


def look() -> Machine:
    """Reads sizes; measures nothing."""
    shm = shutil.disk_usage(SHM).total if SHM.is_dir() else None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Machine(os.cpu_count() or 1, cpu_count(), shm, load)


def write_speed(folder: Path) -> Disk:
    """Writes up to 128 MiB into a file of the folder, syncs it and removes it."""
    chunk = os.urandom(_CHUNK)  # zeros would be compressed away by some file systems
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Disk(folder, 0, fault=f"{error.strerror}")
    if free < 2 * _CHUNK * _CHUNKS:
        return Disk(folder, free, fault=f"{free} bytes are free, too few to measure")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            written, start = 0, perf_counter()
            while written < _CHUNK * _CHUNKS and perf_counter() - start < _LONGEST:
                written += file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            return Disk(folder, free, written / (perf_counter() - start))
    except OSError as error:
        return Disk(folder, free, fault=f"{error.strerror}")
