"""Which onnxruntime there is, and what it really runs on."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from vitral.errors import DeviceError
from vitral_engine.runtime import require


@dataclass(frozen=True)
class Runtime:
    """The runtime and its providers.

    Attributes:
        wheel: name and version; "" unless exactly one is installed.
        fault: why none can be used; "" where one can.
        providers: execution providers it was built with, its first choice first.
        cuda_fault: why CUDA does not work, from a session that was tried; "" where it does.
        gpus: NVIDIA devices that the driver shows; None without a driver.
    """

    wheel: str = ""
    fault: str = ""
    providers: tuple[str, ...] = ()
    cuda_fault: str = ""
    gpus: int | None = None


def look() -> Runtime:
    """Imports the runtime and runs a model of one node on CUDA."""
    gpus = _gpus()
    try:
        wheel = require()
    except DeviceError as error:
        return Runtime(fault=str(error), gpus=gpus)
    try:
        import onnxruntime

        providers = tuple(onnxruntime.get_available_providers())
        from vitral_engine import device
    except Exception as error:  # half a wheel raises whatever its first missing file leads to
        name = wheel.split()[0]
        # So it is after one of two wheels was uninstalled: it took files of the other with it.
        cure = f"pip install --force-reinstall --no-deps {name}"
        return Runtime(wheel, f"{wheel} cannot be imported ({error}): {cure}", gpus=gpus)
    try:
        device.place("cuda")
    except DeviceError as error:
        reason = str(error).removeprefix("device cuda does not work here: ")
        return Runtime(wheel, "", providers, reason, gpus)
    return Runtime(wheel, "", providers, "", gpus)


def _gpus() -> int | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
