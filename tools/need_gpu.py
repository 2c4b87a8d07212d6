"""Ends with 0 where CUDA works for onnxruntime, else with 1 and one line that says what is missing."""

from __future__ import annotations

import sys

from vitral.errors import DeviceError
from vitral_engine.device import place


def main() -> int:
    """Opens a model of one node on CUDA."""
    try:
        place("cuda")
    except DeviceError as error:
        needs = "an NVIDIA GPU with its driver, CUDA and cuDNN (RUNTIME=cuda brings the last two)"
        print(f"this needs {needs}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
