"""The TensorRT provider: what it needs, how it is set, and where its engines are kept.

An engine is built for one graph with its weights, one GPU and one version of each library; onnxruntime
names the file by the graph's structure alone, and would take up the engine of other weights. So each has
its own folder.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import onnxruntime as ort

from vitral.v1 import model_pb2 as pb
from vitral_engine import cuda
from vitral_engine.placement import Placement

_TF32 = "NVIDIA_TF32_OVERRIDE"
_NAMED = re.compile(rb"\0(lib(?:nv|cu)[a-z_]+\.so\.\d+)(?=\0)")


def prepare() -> None:
    """Turns TF32 off for the whole process, before the first engine is built.

    TensorRT uses it by default, and onnxruntime has no option for it. The library reads the variable once.
    """
    os.environ[_TF32] = "0"


def options(index: int) -> dict[str, str]:
    """Provider options: float32 throughout, engines and timings kept."""
    return {
        "device_id": str(index),
        "trt_fp16_enable": "0",
        "trt_bf16_enable": "0",
        "trt_int8_enable": "0",
        "trt_engine_cache_enable": "1",
        "trt_timing_cache_enable": "1",
    }


def kept(
    placement: Placement, spec: pb.ModelSpec, graph: pb.Graph, *, level: str, max_batch: int
) -> Placement:
    """The placement with the folder of this graph's engines, which is made."""
    versions = f"ort{ort.__version__}-trt{_version()}-{cuda.context(placement.index).describe()}"
    name = f"{Path(graph.file).stem}-{level}-{max_batch}-{versions}"
    folder = placement.cache / spec.fingerprint[:32] / name
    folder.mkdir(parents=True, exist_ok=True)
    where = {"trt_engine_cache_path": str(folder), "trt_timing_cache_path": str(folder)}
    return replace(placement, options=placement.options | where)


def cache_folder() -> Path:
    """Where engines are kept: VITRAL_TENSORRT_CACHE, else `vitral/tensorrt` in the user's cache."""
    if named := os.environ.get("VITRAL_TENSORRT_CACHE"):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "vitral" / "tensorrt"


def missing() -> tuple[str, ...]:
    """Libraries that the provider needs and that cannot be opened here."""
    return tuple(name for name in needed() if not _opens(name))


@cache
def needed() -> tuple[str, ...]:
    """Libraries of CUDA and TensorRT that onnxruntime's provider names; none where it has no such file."""
    file = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    if not file.exists():
        return ()
    return tuple(sorted({name.decode() for name in _NAMED.findall(file.read_bytes())}))


def _opens(name: str) -> bool:
    # The wheel of TensorRT keeps its libraries where no loader looks.
    beside = Path(ort.__file__).parent.parent / "tensorrt_libs" / name
    for path in (name, str(beside)):
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return True
    return False


def _version() -> int:
    name = next(name for name in needed() if name.startswith("libnvinfer.so"))
    return int(ctypes.CDLL(name).getInferLibVersion())
