from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from vitral_engine.artifact import open_artifact
from vitral_export.report import exploded, page


def picture(side: int, small_repo: Path) -> Image.Image:
    """The picture in a page about a model whose image is `side` wide, with one patch for each pixel."""
    spec = open_artifact(small_repo / "tiny").spec
    spec.architecture.patch_size.height = spec.architecture.patch_size.width = 1
    text = page(spec, [], np.zeros((side, side, 3), np.uint8))
    found = re.search(r"base64,([^\"]+)", text)
    assert found is not None
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def test_a_small_picture_is_enlarged_before_it_is_cut(small_repo: Path) -> None:
    pixels = np.asarray(picture(8, small_repo))
    assert pixels.shape == (8 * 56 + 7 * 9, 8 * 56 + 7 * 9, 3)
    assert (pixels == 0).mean() > 0.7  # the gaps are narrow


def test_gaps_stand_between_patches_and_nowhere_else() -> None:
    pixels = np.zeros((12, 12, 3), np.uint8)
    cut = exploded(pixels, 6, 6)
    assert cut.shape == (13, 13, 3)
    assert {int(value) for value in np.argwhere(cut[:, 0, 0]).ravel()} == {6}


def test_long_lines_wrap(small_repo: Path) -> None:
    text = (small_repo / "tiny" / "1" / "report.html").read_text()
    assert '<table class="facts">' in text
    assert ".facts td { white-space: normal; overflow-wrap: anywhere; }" in text
