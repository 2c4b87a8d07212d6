"""Writes tests/golden_torchvision: photographs as transformers' torchvision backend gives them.

Run by `make golden-torchvision` in an environment of its own: PyTorch there is another than the project's.
Pixels after resize and crop are PNG files, exact and small; of the normalised float32 rows stands the sha256.
DINOv3's processor resizes in float32: of it stand the rows' hash alone.
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


DINOV3 = {"image_processor_type": "DINOv3ViTImageProcessorFast"}


def of_class(name: str, **own: Any) -> dict[str, Any]:
    """A processor of another class than ViT's, with its own defaults but for these."""
    return {"image_processor_type": f"{name}Fast", **own}


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
    ("coffee.png", None, of_class("BitImageProcessor", **cropped(64, 56, 56), **IMAGENET)),
    (
        "chelsea.png",
        None,
        of_class("CLIPImageProcessor", size={"shortest_edge": 57}, crop_size=sides(57, 57)),
    ),
    ("rocket.jpg", None, of_class("DeiTImageProcessor", size=sides(73, 73), crop_size=sides(64, 64))),
    ("astronaut.png", None, of_class("BeitImageProcessor", size=sides(64, 64))),
    ("hubble_deep_field.jpg", None, of_class("SiglipImageProcessor", size=sides(64, 64))),
    ("chelsea.png", None, of_class("CLIPImageProcessor")),
    ("chelsea.png", None, of_class("DeiTImageProcessor")),
    ("rocket.jpg", None, DINOV3),
    ("coffee.png", None, {**DINOV3, "size": sides(96, 160)}),
    ("chelsea.png", None, {**DINOV3, "size": sides(80, 112), **BICUBIC}),
    ("astronaut.png", FACE, {**DINOV3, "size": sides(112, 98)}),
    ("hubble_deep_field.jpg", None, {**DINOV3, **cropped(64, 56, 48)}),
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
    processor = loaded({"image_processor_type": "ViTImageProcessorFast", **config})
    assert processor.backend == "torchvision"
    rows = processor(image, return_tensors="np")["pixel_values"][0]
    assert rows.dtype == np.float32
    file = None
    if "DINOv3" not in type(processor).__name__:
        plain = processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")
        resized = plain["pixel_values"][0]
        assert resized.dtype == torch.uint8
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
