"""Where a model runs. What was asked for is what it gets: onnxruntime's own silent fallback is closed."""

from __future__ import annotations

import ctypes
import logging
import re
from pathlib import Path

import numpy as np
import onnxruntime as ort

from vitral.errors import DeviceError, InvalidArgumentError
from vitral_engine import tensorrt
from vitral_engine.placement import CPU, CUDA, TENSORRT, Placement, cuda_options
from vitral_engine.runtime import require

log = logging.getLogger(__name__)

__all__ = ["CPU", "CUDA", "TENSORRT", "Placement", "available", "fault", "place"]

# y = Relu(x) over one float: the smallest model that shows whether a provider really runs.
_PROBE = bytes.fromhex(
    "08093a330a0c0a0178120179220452656c751201705a0f0a0178120a0a08080112040a020801620f0a0179120a0a080801"
    "12040a02080142040a001014"
)


def place(device: str = "auto", *, cache: Path | None = None) -> Placement:
    """The placement for `auto`, `cpu`, `cuda[:N]` or `tensorrt[:N]`.

    Args:
        device: what is asked for; `auto` is CUDA where it works, else the CPU.
        cache: where TensorRT keeps its engines; None for `tensorrt.cache_folder()`.

    Raises:
        DeviceError: what was asked for does not work here; the message says what is missing.
        InvalidArgumentError: the device is none of these.
    """
    require()
    if device == "cpu":
        return Placement(CPU, "cpu")
    if device == "auto":
        reason = fault("cuda", 0)
        if reason is None:
            return _cuda(0)
        log.info("device auto: running on the CPU, %s", reason)
        return Placement(CPU, "cpu")
    match = re.fullmatch(r"(cuda|tensorrt)(?::(\d+))?", device)
    if match is None:
        known = "auto, cpu, cuda, cuda:N, tensorrt, tensorrt:N"
        raise InvalidArgumentError(f"unknown device {device!r}; known are {known}")
    kind, index = match[1], int(match[2] or 0)
    if (reason := fault(kind, index)) is not None:
        raise DeviceError(f"device {device} does not work here: {reason}")
    return _cuda(index) if kind == "cuda" else _tensorrt(index, cache)


def available() -> list[Placement]:
    """The CPU, and CUDA where it works: what a proof is run on.

    TensorRT is not among them: its engines are built where they serve, and held to the goldens there.
    """
    require()
    return [place("cpu"), *([_cuda(0)] if fault("cuda", 0) is None else [])]


def fault(kind: str, index: int) -> str | None:
    """Why `cuda` or `tensorrt` does not work here, or None when it does."""
    return _cuda_fault(index) if kind == "cuda" else _tensorrt_fault(index)


def _cuda(index: int) -> Placement:
    return Placement(CUDA, f"cuda:{index}", cuda_options(index))


def _tensorrt(index: int, cache: Path | None) -> Placement:
    tensorrt.prepare()  # before the first session, and so not while only a fault is looked for
    options = tensorrt.options(index)
    kept = {name: "0" for name in options if name.endswith("cache_enable")}
    if (reason := _probe(TENSORRT, options | kept)) is not None:
        raise DeviceError(f"device tensorrt:{index} does not work here: {reason}")
    return Placement(TENSORRT, f"tensorrt:{index}", options, cache or tensorrt.cache_folder())


def _tensorrt_fault(index: int) -> str | None:
    if TENSORRT not in ort.get_available_providers():
        return f"{require()} has no TensorRT provider; add vitral[gpu] or vitral[cuda] instead of vitral[cpu]"
    _preload()
    if lacking := tensorrt.missing():
        return f"{', '.join(lacking)} cannot be opened"
    return _cuda_fault(index)


def _cuda_fault(index: int) -> str | None:
    if CUDA not in ort.get_available_providers():
        return f"{require()} has no CUDA provider; add vitral[gpu] or vitral[cuda] instead of vitral[cpu]"
    if (missing := _missing_library()) is not None:
        return missing
    return _probe(CUDA, {"device_id": str(index)})


def _probe(provider: str, options: dict[str, str]) -> str | None:
    """Why a model of one node does not run on this provider; None when it does."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        # Without fallback: onnxruntime would print a banner and open it on the CPU.
        session = ort.InferenceSession(_PROBE, settings, providers=[(provider, options)], enable_fallback=0)
        if provider not in session.get_providers():
            return "onnxruntime fell back to the CPU"
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # onnxruntime raises classes of its own for every fault
        return " ".join(str(error).split())[:300]
    return None


def _missing_library() -> str | None:
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not library.exists():
        return None  # not Linux: the probe session tells
    _preload()
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        text = str(error)
        # Undefined symbols belong to the provider bridge, which onnxruntime loads first; only a
        # library that cannot be opened is a fault of the machine.
        return text if "cannot open shared object" in text else None
    return None


def _preload() -> None:
    """Opens the libraries of the CUDA wheels, where there are any; no loader finds them by itself."""
    if hasattr(ort, "preload_dlls") and (Path(ort.__file__).parent.parent / "nvidia").is_dir():
        ort.preload_dlls()
