"""Adds the installed Pillow to tests/golden_pillow/golden.json: photographs as transformers resizes them.

Run by `make golden-pillow`, in the project's own environment. Versions that are there stay: pixels are
compared with those of the version that is installed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import skimage
from transformers import BitImageProcessorPil, DeiTImageProcessorPil, ViTImageProcessorPil
from transformers.image_utils import load_image

FILE = Path(__file__).resolve().parent.parent / "tests" / "golden_pillow" / "golden.json"
PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
NAMES = ("rocket.jpg", "coffee.png", "astronaut.png", "chelsea.png", "hubble_deep_field.jpg", "retina.jpg")
PROCESSORS = (ViTImageProcessorPil, BitImageProcessorPil, DeiTImageProcessorPil)


def main() -> None:
    """Writes the hashes of this version beside the others'."""
    FILE.parent.mkdir(exist_ok=True)
    told = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    told[PIL.__version__] = [
        written(name, processor) for name in NAMES for processor in (made() for made in PROCESSORS)
    ]
    FILE.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def written(name: str, processor: Any) -> dict[str, str]:
    """One photograph under one processor with its defaults."""
    image = load_image(str(PHOTOGRAPHS / name))
    plain = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    assert plain.dtype == np.uint8
    return {
        "photograph": name,
        "processor": type(processor).__name__,
        "uint8_sha256": hashlib.sha256(plain.transpose(1, 2, 0).tobytes()).hexdigest(),
    }


if __name__ == "__main__":
    main()
