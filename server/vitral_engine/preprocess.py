"""From RGB pixels to the model's input, under the preprocessing contract of its spec.

Contract `hf-pil` is `transformers`' ViTImageProcessorPil: Pillow's resize on uint8, then
(u * rescale_factor - mean) / std in its order of roundings. All that follows the resize depends on the byte
alone, so it is a table of 256 values a channel: exact and cheap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitral.errors import ArtifactError
from vitral.v1 import model_pb2 as pb

_RESAMPLE = {
    pb.RESAMPLE_NEAREST: Image.Resampling.NEAREST,
    pb.RESAMPLE_BILINEAR: Image.Resampling.BILINEAR,
    pb.RESAMPLE_BICUBIC: Image.Resampling.BICUBIC,
    pb.RESAMPLE_LANCZOS: Image.Resampling.LANCZOS,
    pb.RESAMPLE_BOX: Image.Resampling.BOX,
    pb.RESAMPLE_HAMMING: Image.Resampling.HAMMING,
}


class Preprocessor:
    """One preprocessing contract, ready to apply. Stateless after construction; any thread may call it.

    Raises:
        ArtifactError: the contract is none that this version knows, or its numbers do not fit RGB.
    """

    def __init__(self, preprocessing: pb.Preprocessing) -> None:
        self.spec = preprocessing
        if preprocessing.contract != "hf-pil":
            raise ArtifactError(f"unknown preprocessing contract {preprocessing.contract!r}; known is hf-pil")
        if preprocessing.HasField("crop_size") or preprocessing.shortest_edge:
            raise ArtifactError("contract hf-pil here resizes to an exact size; crops are not supported")
        if preprocessing.resample not in _RESAMPLE:
            raise ArtifactError("the preprocessing names no interpolation")
        if len(preprocessing.mean) != 3 or len(preprocessing.std) != 3 or 0 in preprocessing.std:
            raise ArtifactError("the preprocessing needs three means and three non-zero standard deviations")
        self._size = (preprocessing.size.width, preprocessing.size.height)
        self._resample = _RESAMPLE[preprocessing.resample]
        self._table = _table(preprocessing)

    def resize(self, rgb: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB pixels (H, W, 3) of any size to uint8 (h, w, 3) of the contract's size."""
        image = rgb if isinstance(rgb, Image.Image) else Image.fromarray(rgb)
        return np.asarray(image.resize(self._size, self._resample))

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized pixels (..., h, w, 3) to the float32 input (..., 3, h, w)."""
        planes = [table[pixels[..., channel]] for channel, table in enumerate(self._table)]
        return np.stack(planes, axis=-3)


def _table(preprocessing: pb.Preprocessing) -> NDArray[np.float32]:
    scaled = (np.arange(256, dtype=np.float64) * preprocessing.rescale_factor).astype(np.float32)
    mean = np.array(preprocessing.mean, dtype=np.float32)[:, None]
    std = np.array(preprocessing.std, dtype=np.float32)[:, None]
    table: NDArray[np.float32] = (scaled - mean) / std
    return table
