from __future__ import annotations

import io
import re
from base64 import b64decode
from pathlib import Path

import numpy as np
from PIL import Image

from vitral_export.report.photograph import exploded, picture


def test_a_small_picture_is_enlarged_before_it_is_cut() -> None:
    cut = np.asarray(picture(np.full((8, 8, 3), 9, np.uint8), 1, 1))

    assert cut.shape == (8 * 56 + 7 * 9, 8 * 56 + 7 * 9, 4)
    assert (cut[..., 3] == 255).mean() > 0.7  # the gaps are narrow


def test_a_large_picture_is_reduced() -> None:
    assert max(picture(np.zeros((1024, 512, 3), np.uint8), 16, 16).size) <= 640


def test_gaps_stand_between_patches_and_nowhere_else() -> None:
    cut = exploded(np.full((12, 12, 3), 7, np.uint8), 6, 6)

    assert cut.shape == (13, 13, 4)
    assert {int(value) for value in np.argwhere(cut[:, 0, 3] == 0).ravel()} == {6}


def test_the_picture_of_an_export_is_its_photograph(small_repo: Path) -> None:
    text = (small_repo / "tiny" / "1" / "report.html").read_text(encoding="utf-8")
    (data,) = re.findall(r"base64,([^\"]+)", text)
    with Image.open(io.BytesIO(b64decode(data))) as found:
        assert found.size == (32 * 14 + 3 * 18, 32 * 14 + 3 * 18)  # patches of 8 x 14 pixels, gaps of a sixth
