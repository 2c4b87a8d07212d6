"""What processes have taken, as Linux tells it: processor time, memory, bytes on the loopback interface.

It needs nothing but Python: load generators run in environments that have no vitral.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def busy() -> float:
    """Seconds that all cores together have worked, or have been kept from it by the host (Linux)."""
    _, *ticks = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _, _, *rest = map(int, ticks[:8])
    return (user + nice + system + sum(rest)) / _TICKS


def family(pid: int) -> tuple[int, ...]:
    """A process and all below it."""
    found = [pid]
    for parent in found:  # grows while it is read
        for told in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, told.read_text().split())
    return tuple(found)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor seconds of these processes, user and system."""
    total = 0
    for pid in pids:
        # The name, in brackets, may hold blanks.
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(values[11]) + int(values[12])
    return total / _TICKS


def peak_mib(pids: Iterable[int]) -> float:
    """MiB of memory that these processes held at most, each by itself."""
    return sum(_status(pid, "VmHWM") for pid in pids)


def resident_mib(pids: Iterable[int]) -> float:
    """MiB of memory that these processes hold."""
    return sum(_status(pid, "VmRSS") for pid in pids)


def loopback_bytes() -> int:
    """Bytes that have come in over the loopback interface: those of both directions of every connection."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, values = line.partition(":")
        if name.strip() == "lo":
            return int(values.split()[0])
    return 0


def _status(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return 0.0
