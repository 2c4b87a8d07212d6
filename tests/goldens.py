"""Goldens that other environments made, with the versions of what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import PIL
from PIL import Image
from transformers.image_utils import load_image

from vitral.tensors import Array


def load(folder: str) -> dict[str, Any]:
    """What `tests/FOLDER/golden.json` says."""
    text = (Path(__file__).parent / folder / "golden.json").read_text(encoding="utf-8")
    told: dict[str, Any] = json.loads(text)
    return told


def sha256(array: Array) -> str:
    """Of its bytes, row by row."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def source(case: Mapping[str, Any]) -> Image.Image:
    """The photograph of a case, decoded to what the goldens were made from."""
    image = load_image(str(photographs.ROCKET.with_name(case["photograph"])))
    image = image.crop(case["box"]) if case.get("box") else image
    # Another decoder would be another input: then nothing follows about the resize.
    assert sha256(np.asarray(image)) == case["source_sha256"], f"Pillow {PIL.__version__} decodes otherwise"
    return image


def demand_pillow(libraries: Mapping[str, str], *, make: str) -> None:
    """Demands that the goldens are of the Pillow that is installed: another may resize to other pixels."""
    made, here = libraries["pillow"], PIL.__version__
    assert made == here, f"goldens are of Pillow {made}, of {here} none are known: run `make {make}`"
