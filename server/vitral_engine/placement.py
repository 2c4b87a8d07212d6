"""Which execution provider runs a graph, on which device, with which options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"


@dataclass(frozen=True)
class Placement:
    """An execution provider, its device ("cpu", "cuda:0", "tensorrt:0") and its options.

    Attributes:
        cache: where TensorRT keeps its engines.
    """

    provider: str
    device: str
    options: dict[str, str] = field(default_factory=dict)
    cache: Path = Path()

    @property
    def index(self) -> int:
        """Number of the device; 0 on a CPU."""
        return int(self.options.get("device_id", "0"))

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """What onnxruntime takes as `providers`. Shape nodes may still run on the CPU."""
        chain: list[tuple[str, dict[str, str]]] = [(CPU, {})]
        if self.provider == TENSORRT:  # what it cannot take runs on CUDA
            chain.insert(0, (CUDA, cuda_options(self.index)))
        return chain if self.provider == CPU else [(self.provider, self.options), *chain]


def cuda_options(index: int) -> dict[str, str]:
    """Options of the CUDA provider.

    TF32 keeps 10 bits of mantissa: a float32 proof does not hold with it. The heuristic choice of
    convolutions costs nothing; the exhaustive one is repeated for every new shape.
    """
    return {"device_id": str(index), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
