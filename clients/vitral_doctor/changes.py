"""What to change, one sentence each, from what was found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vitral_doctor.machine import SHM
from vitral_doctor.report import Change, Findings

if TYPE_CHECKING:
    from vitral_doctor.models import Examined

_SHM = 256 * 2**20
_FREE = 2**30
_SLOW = 50e6  # bytes a second


def of(found: Findings) -> tuple[Change, ...]:
    """Faults first, otherwise in the order of the report."""
    every = [
        *_runtime(found),
        *_roles(found),
        *_cuda(found),
        *_machine(found),
        *_disk(found),
        *_models(found),
    ]
    return tuple(sorted(every, key=lambda change: not change.fault))


def _runtime(found: Findings) -> Iterator[Change]:
    fault = found.runtime.fault
    if fault and "two runtimes" in fault:
        cure = "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'vitral[gpu]' or 'vitral[cpu]'"
        yield Change(True, f"{fault.split(':')[0]}, and each overwrites the other's files: {cure}")
    elif fault:
        yield Change(True, fault)


def _roles(found: Findings) -> Iterator[Change]:
    missing = found.versions.missing
    if lacking := missing.get("server"):
        yield Change(
            True,
            f"vitral-server would not start without {' and '.join(lacking)}: pip install 'vitral[server]'",
        )


def _cuda(found: Findings) -> Iterator[Change]:
    ran = found.runtime
    if found.device_fault:
        yield Change(True, f"{found.device_fault}: {_cure(found)}")
    elif ran.gpus and ran.cuda_fault and not ran.fault:
        count = f"{ran.gpus} NVIDIA GPU{'s' if ran.gpus > 1 else ''}"
        yield Change(False, f"{count} can be seen, but {ran.cuda_fault}: {_cure(found)}")


def _cure(found: Findings) -> str:
    ran = found.runtime
    if not ran.gpus:
        why = "there is no NVIDIA driver (libcuda.so.1)" if ran.gpus is None else "the driver shows no GPU"
        return f"{why}; in a container, start it with --gpus all"
    if ran.wheel.startswith("onnxruntime-gpu"):
        return "pip install 'vitral[cuda]' brings the CUDA and cuDNN libraries"
    return "pip uninstall onnxruntime, then pip install 'vitral[cuda]'"


def _machine(found: Findings) -> Iterator[Change]:
    there = found.machine
    if there.usable < there.cores:
        yield Change(
            False,
            f"this process may use {there.usable} of {there.cores} cores, by affinity or the container's CPU "
            "quota: vitral counts them so; raise the quota (docker run --cpus) for more speed",
        )
    if there.load is not None and there.load > there.cores:
        yield Change(
            False,
            f"the machine is busy, load {there.load:.1f} on {there.cores} cores: speeds are of the rest",
        )
    if there.shm_bytes is not None and there.shm_bytes < _SHM:
        yield Change(
            False,
            f"{SHM} has {there.shm_bytes / 2**20:.0f} MiB: worker processes of PyTorch's DataLoader pass "
            "batches through it; docker run --shm-size=1g gives more",
        )


def _disk(found: Findings) -> Iterator[Change]:
    disk = found.disk
    if disk.fault:
        yield Change(False, f"no data set can be written to {disk.folder}: {disk.fault}")
        return
    if disk.free < _FREE:
        yield Change(
            False,
            f"{disk.folder} has {disk.free / 2**20:.0f} MiB free: 1,000 pictures of ViT-B take 300 MB",
        )
    if disk.bytes_per_s < _SLOW:
        speed = f"{disk.bytes_per_s / 1e6:.0f} MB/s"
        yield Change(
            False, f"{disk.folder} takes {speed}, {disk.bytes_per_s / 301e3:.0f} pictures of ViT-B a second"
        )


def _models(found: Findings) -> Iterator[Change]:
    if found.repo_fault and not found.versions.missing.get("server"):
        yield Change(True, found.repo_fault)
    named = bool(found.asked.models)
    none = bool(found.models) and not any(model.version for model in found.models)
    for model in found.models:
        yield from _model(model, fault=named or none)


def _model(model: Examined, *, fault: bool) -> Iterator[Change]:
    for reason in model.faults:
        instead = f"; version {model.version} would be served instead" if model.version else ""
        yield Change(fault, f"model {model.name} {reason}{instead}: export it again")
    if not model.version:
        return
    if model.provider not in model.proven_on and not model.unproven:
        proven = " and ".join(model.proven_on) or "nothing"
        yield Change(
            False,
            f"model {model.name} is proven on {proven} and would run on {model.provider}, on its replayed "
            f"goldens alone: vitral-export verify replays all of it here",
        )
    if not model.pixels_equal:
        yield Change(
            False,
            f"model {model.name} gets other pixels than its proof did ({model.pixels_note}): install that "
            "Pillow, or export it again",
        )
    if model.random:
        yield Change(
            False, f"model {model.name} has {model.weights}: it was never trained; export trained weights"
        )
    if model.unproven:
        yield Change(False, f"{model.unproven}; vitral-export build --reference SOURCE proves it")
