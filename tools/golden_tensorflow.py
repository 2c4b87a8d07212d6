"""Writes tests/golden_tensorflow/golden.json: photographs as TensorFlow resizes them for Google's models.

Run by `make golden-tensorflow` in an environment of its own. Of each case stand the sha256 of the float32
pixels after the resize, and of the normalised rows.
"""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import tensorflow as tf
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden_tensorflow"
PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
LIBRARIES = ("numpy", "pillow", "tensorflow-cpu")

NAMES = ("rocket.jpg", "coffee.png", "astronaut.png", "chelsea.png", "hubble_deep_field.jpg", "retina.jpg")
SIZES = ((224, 224), (96, 160), (384, 384), (48, 512))


def main() -> None:
    """Writes every case."""
    told = {
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "cases": [written(name, *size) for name in NAMES for size in SIZES],
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "golden.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def written(name: str, height: int, width: int) -> dict[str, Any]:
    """One case."""
    rgb = np.asarray(Image.open(PHOTOGRAPHS / name).convert("RGB"))
    resized = tf.image.resize(rgb, (height, width)).numpy()
    rows = ((tf.constant(resized) - 127.5) / 127.5).numpy().transpose(2, 0, 1)
    assert resized.dtype == rows.dtype == np.float32
    return {
        "photograph": name,
        "size": [height, width],
        "source_sha256": digest(rgb),
        "resized_sha256": digest(resized),
        "float32_sha256": digest(rows),
    }


def digest(array: Any) -> str:
    """Sha256 of its bytes, row by row."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


if __name__ == "__main__":
    main()
