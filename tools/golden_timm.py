"""Writes tests/golden_timm/golden.json: photographs as timm's evaluation transform gives them.

Run by `make golden-timm` in an environment of its own: timm needs torchvision, which the project does
without. Of each case stand the sha256 of the pixels after resize and crop, and of the float32 rows.
"""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import timm
from timm.data import create_transform, resolve_data_config
from transformers.image_utils import load_image

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden_timm"
PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
LIBRARIES = ("numpy", "pillow", "timm", "torch", "torchvision")

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
NAMES = ("rocket.jpg", "coffee.png", "astronaut.png", "chelsea.png", "hubble_deep_field.jpg", "retina.jpg")
MODELS = (
    "vit_base_patch16_224.augreg_in21k",
    "vit_small_patch14_dinov2.lvd142m",
    "deit3_small_patch16_224.fb_in1k",
)


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Photographs and configurations: those of models, and others with every kind of rounding."""
    plain = {"input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic", **HALF}
    found = [(name, plain) for name in NAMES]
    found += [("coffee.png", configuration(name)) for name in MODELS]
    for side, crop_pct in ((65, 0.875), (66, 0.875), (57, 0.95), (48, 1.0), (40, 1.3)):
        config = {"input_size": (3, side, side), "crop_pct": crop_pct, "interpolation": "bilinear"}
        found += [("chelsea.png", config), ("rocket.jpg", config)]
    for kind in ("nearest", "lanczos", "box", "hamming"):
        found.append(("coffee.png", {"input_size": (3, 64, 64), "interpolation": kind}))
    squashed = {"input_size": (3, 56, 71), "crop_pct": 0.9, "crop_mode": "squash", **HALF}
    return [*found, ("coffee.png", squashed), ("rocket.jpg", {"input_size": (3, 224, 224)})]


def configuration(name: str) -> dict[str, Any]:
    """What timm itself resolves for a model."""
    config: dict[str, Any] = timm.get_pretrained_cfg(name).to_dict()
    found: dict[str, Any] = resolve_data_config({}, pretrained_cfg=config)
    return found


def main() -> None:
    """Writes every case."""
    told = {
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "cases": [written(name, config) for name, config in cases()],
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "golden.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def written(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """One case."""
    image = load_image(str(PHOTOGRAPHS / name))
    resolved = resolve_data_config({}, pretrained_cfg=config)
    rows = create_transform(**resolved, is_training=False)(image).numpy()
    pixels = create_transform(**resolved, is_training=False, normalize=False)(image).numpy()
    assert (rows.dtype, pixels.dtype) == (np.float32, np.uint8)
    return {
        "photograph": name,
        "config": config,
        "source_sha256": digest(np.asarray(image)),
        "uint8_sha256": digest(pixels.transpose(1, 2, 0)),
        "float32_sha256": digest(rows),
    }


def digest(array: Any) -> str:
    """Sha256 of its bytes, row by row."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


if __name__ == "__main__":
    main()
