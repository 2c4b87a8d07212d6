"""The golden photograph, cut into its patches."""

from __future__ import annotations

import base64
import io
import math
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export.report.facts import size
from vitral_export.report.html import count

_SHOWN = 448  # pixels a picture is enlarged to: in one of few pixels the gaps would be as wide as patches
_MOST = 640  # of the picture with its gaps; a larger one is reduced, for the page's sake


def figure(spec: pb.ModelSpec, pixels: NDArray[np.uint8]) -> str:
    """The picture and where it is from. `pixels`: uint8 (H, W, 3), after the resize."""
    item = spec.architecture
    buffer = io.BytesIO()
    drawn = picture(pixels, item.patch_size.height, item.patch_size.width)
    drawn.save(buffer, "PNG")
    patches = count(item.grid.height * item.grid.width, "patch", "patches")
    alt = f"The golden photograph after the resize to {size(spec.preprocessing.size)} pixels, as {patches}"
    said = f"A photograph after the resize, cut into {patches} of {size(item.patch_size)} pixels."
    if item.grid.height * item.grid.width > 1:
        said += f" Row by row these are the patch tokens: {_ends(item.grid)}."
    said += f" {spec.proof.photograph.credit}."
    return (
        f'<figure><img class="photograph" alt="{escape(alt)}" width="{drawn.width}" height="{drawn.height}" '
        f'src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
        f"<figcaption>{escape(said)}</figcaption></figure>"
    )


def _ends(grid: tensor_pb2.Grid) -> str:
    return f"0 at the top left, {grid.height * grid.width - 1} at the bottom right"


def picture(pixels: NDArray[np.uint8], height: int, width: int) -> Image.Image:
    """The image cut into patches of height x width pixels, enlarged or reduced to what a page shows."""
    times = max(1, _SHOWN // max(pixels.shape[:2]))
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    cut = Image.fromarray(exploded(large, height * times, width * times))
    return cut.reduce(math.ceil(max(cut.size) / _MOST))


def exploded(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The image as RGBA with transparent gaps between its patches."""
    gap = max(1, min(height, width) // 6)
    rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            patch = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
            canvas[top : top + height, left : left + width, :3] = patch
            canvas[top : top + height, left : left + width, 3] = 255
    return canvas
