"""Exactly one onnxruntime must be installed: each wheel overwrites the other's files."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from vitral.errors import DeviceError

_WHEELS = ("onnxruntime", "onnxruntime-gpu")


def require() -> str:
    """The installed onnxruntime wheel, as `name version`.

    Raises:
        DeviceError: there is none, or there are two.
    """
    found = []
    for wheel in _WHEELS:
        try:
            found.append(f"{wheel} {metadata.version(wheel)}")
        except metadata.PackageNotFoundError:
            continue
    if not found:
        raise DeviceError(
            "no onnxruntime is installed: add exactly one of vitral[gpu], vitral[cuda], vitral[cpu]"
        )
    if len(found) > 1:
        raise DeviceError(f"two runtimes are installed, {' and '.join(found)}: uninstall both, then add one")
    return found[0]


def cpu_count() -> int:
    """Cores this process may really use: affinity, cut by the container's CPU quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(cores, quota) if quota else cores)


def _cgroup_quota(root: Path) -> int | None:
    """Whole cores of the cgroup's CPU quota (v2, then v1), rounded up; None where there is none."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return None if quota.strip() in ("max", "-1") else -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None
