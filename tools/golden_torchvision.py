"""Writes tests/golden_torchvision: photographs as transformers' torchvision backend gives them.

Run by `make golden-torchvision` in an environment of its own: PyTorch there is another than the project's.
Pixels after resize and crop are PNG files, exact and small; of the normalised float32 rows stands the sha256.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_utils import load_image

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden_torchvision"
PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "transformers")

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
LANCZOS, BILINEAR, BICUBIC = ({"resample": number} for number in (1, 2, 3))
FACE = (190, 60, 251, 107)


def sides(height: int, width: int) -> dict[str, int]:
    """A size as transformers has it."""
    return {"height": height, "width": width}


def cropped(edge: int, height: int, width: int) -> dict[str, Any]:
    """The shortest edge resized, then a crop of the centre."""
    return {"size": {"shortest_edge": edge}, "do_center_crop": True, "crop_size": sides(height, width)}


# Photograph, part of it as (left, top, right, bottom), settings of the processor.
CASES: tuple[tuple[str, tuple[int, int, int, int] | None, dict[str, Any]], ...] = (
    ("rocket.jpg", None, {"size": sides(224, 224), **BILINEAR, **HALF}),
    ("coffee.png", None, {"size": sides(96, 160), **BICUBIC, **IMAGENET}),
    ("astronaut.png", FACE, {"size": sides(112, 98), **BICUBIC, **HALF}),
    ("astronaut.png", FACE, {"size": sides(112, 98), **BILINEAR, **IMAGENET}),
    ("chelsea.png", (100, 50, 300, 250), {"size": sides(240, 96), **BILINEAR, **HALF}),
    ("hubble_deep_field.jpg", None, {"size": sides(32, 48), **BILINEAR, **IMAGENET}),
    ("retina.jpg", None, {"size": sides(112, 112), **BICUBIC, **HALF}),
    ("coffee.png", None, {"size": sides(64, 80), **LANCZOS, **HALF}),
    ("coffee.png", (0, 0, 160, 120), {"size": sides(120, 60), **BICUBIC, **HALF}),
    ("chelsea.png", None, {**cropped(80, 72, 66), **BICUBIC, **IMAGENET}),
    ("chelsea.png", None, {**cropped(41, 48, 56), **BILINEAR, **IMAGENET}),
)


def main() -> None:
    """Writes every case, and golden.json about them all."""
    if (found := torch.backends.cpu.get_cpu_capability()) not in ("AVX2", "AVX512"):
        sys.exit(f"golden_torchvision: this CPU has {found}; torchvision resizes in float32 without AVX2")
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.png"):
        old.unlink()
    told = {
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "cases": [written(number, *case) for number, case in enumerate(CASES)],
    }
    (FOLDER / "golden.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def written(number: int, name: str, box: tuple[int, ...] | None, config: dict[str, Any]) -> dict[str, Any]:
    """Writes the pixels of one case, and returns what golden.json says about it."""
    image = load_image(str(PHOTOGRAPHS / name))
    image = image.crop(box) if box else image
    processor = loaded({**config, "image_processor_type": "ViTImageProcessorFast"})
    assert processor.backend == "torchvision"
    resized = processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]
    assert resized.dtype == torch.uint8
    rows = processor(image, return_tensors="np")["pixel_values"][0]
    assert rows.dtype == np.float32
    file = f"{number:02d}_{Path(name).stem}.png"
    Image.fromarray(resized.permute(1, 2, 0).contiguous().numpy()).save(FOLDER / file, optimize=True)
    return {
        "file": file,
        "photograph": name,
        "box": box,
        "source_sha256": hashlib.sha256(np.asarray(image).tobytes()).hexdigest(),
        "config": config,
        "float32_sha256": hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest(),
    }


def loaded(config: dict[str, Any]) -> Any:
    """The processor that transformers makes of a preprocessor_config.json."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
        return AutoImageProcessor.from_pretrained(folder)


if __name__ == "__main__":
    main()
