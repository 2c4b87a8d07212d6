"""Where a model runs. What was asked for is what it gets: onnxruntime's own silent fallback is closed."""

from __future__ import annotations

import ctypes
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime as ort

from vitral.errors import DeviceError, InvalidArgumentError
from vitral_engine.runtime import require

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

# y = Relu(x) over one float: the smallest model that shows whether a provider really runs.
_PROBE = bytes.fromhex(
    "08093a330a0c0a0178120179220452656c751201705a0f0a0178120a0a08080112040a020801620f0a0179120a0a080801"
    "12040a02080142040a001014"
)


@dataclass(frozen=True)
class Placement:
    """An execution provider, its device ("cpu", "cuda:0") and its options."""

    provider: str
    device: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """What onnxruntime takes as `providers`. Shape nodes may still run on the CPU."""
        cpu: list[tuple[str, dict[str, str]]] = [(CPU, {})]
        return cpu if self.provider == CPU else [(self.provider, self.options), *cpu]


def place(device: str = "auto") -> Placement:
    """The placement for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: `cuda` was asked for and does not work here; the message says what is missing.
        InvalidArgumentError: the device is none of the four.
    """
    require()
    if device == "cpu":
        return Placement(CPU, "cpu")
    if device == "auto":
        reason = _cuda_fault(0)
        if reason is None:
            return _cuda(0)
        log.info("device auto: running on the CPU, %s", reason)
        return Placement(CPU, "cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise InvalidArgumentError(f"unknown device {device!r}; known are auto, cpu, cuda, cuda:N")
    index = int(match[1] or 0)
    if (reason := _cuda_fault(index)) is not None:
        raise DeviceError(f"device {device} does not work here: {reason}")
    return _cuda(index)


def available() -> list[Placement]:
    """Every placement that works on this machine, the CPU first."""
    require()
    return [place("cpu"), *([_cuda(0)] if _cuda_fault(0) is None else [])]


def _cuda(index: int) -> Placement:
    # TF32 keeps 10 bits of mantissa: a float32 proof does not hold with it.
    return Placement(CUDA, f"cuda:{index}", {"device_id": str(index), "use_tf32": "0"})


def _cuda_fault(index: int) -> str | None:
    """Why CUDA does not work here, or None when it does."""
    if CUDA not in ort.get_available_providers():
        return f"{require()} has no CUDA provider; add vitral[gpu] or vitral[cuda] instead of vitral[cpu]"
    if (missing := _missing_library()) is not None:
        return missing
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(_PROBE, options, providers=[(CUDA, {"device_id": str(index)})])
    except Exception as error:  # onnxruntime raises classes of its own for every fault
        return " ".join(str(error).split())[:300]
    return None if CUDA in session.get_providers() else "onnxruntime fell back to the CPU"


def _missing_library() -> str | None:
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not library.exists():
        return None  # not Linux: the probe session tells
    if hasattr(ort, "preload_dlls") and _has_pip_cuda():
        ort.preload_dlls()
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        text = str(error)
        # Undefined symbols belong to the provider bridge, which onnxruntime loads first; only a
        # library that cannot be opened is a fault of the machine.
        return text if "cannot open shared object" in text else None
    return None


def _has_pip_cuda() -> bool:
    return (Path(ort.__file__).parent.parent / "nvidia").is_dir()
