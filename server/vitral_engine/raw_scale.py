"""Contract `raw-scale`: values of any channels, x = value * scale + offset with a pair for each channel.

Nothing is resized and nothing becomes RGB: medical, satellite and depth images come in their own units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitral.dynamic import Size
from vitral.errors import ArtifactError, ImageError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb

CONTRACT = "raw-scale"
"""Its name in a spec."""

DTYPES = ("uint8", "uint16", "int16", "float32")
"""Element types of the values it takes. All of them are exact in float32."""

TAKEN = ", ".join(DTYPES)
"""The same, as messages name them."""


def check(preprocessing: pb.Preprocessing) -> None:
    """Refuses numbers that mean nothing.

    Raises:
        ArtifactError: with what is wrong.
    """
    told = preprocessing
    if not told.scale or len(told.scale) != len(told.offset):
        numbers = f"{len(told.scale)} scales and {len(told.offset)} offsets"
        raise ArtifactError(f"{CONTRACT} needs a scale and an offset for each channel, not {numbers}")
    with np.errstate(over="ignore"):
        scale, offset = (np.array(item, np.float64).astype(np.float32) for item in (told.scale, told.offset))
    if not (np.isfinite(scale).all() and np.isfinite(offset).all() and scale.all()):
        raise ArtifactError(f"{CONTRACT} needs scales and offsets that are finite in float32, no scale of 0")
    if not told.size.height or not told.size.width:
        raise ArtifactError(f"{CONTRACT} has a size of {told.size.height} x {told.size.width}")


class RawScale:
    """The contract with its numbers. Stateless after construction; any thread may call it.

    Args:
        preprocessing: the contract.
        size: height and width of the values, where they are not its own.

    Attributes:
        shape: (H, W, C) of the values it takes; (H, W) will do where C is 1.

    Raises:
        ArtifactError: the numbers mean nothing.
    """

    def __init__(self, preprocessing: pb.Preprocessing, *, size: Size | None = None) -> None:
        check(preprocessing)
        told = preprocessing
        height, width = size or (told.size.height, told.size.width)
        self.shape = (height, width, len(told.scale))
        self._scale, self._offset = (
            np.array(item, np.float32)[:, None, None] for item in (told.scale, told.offset)
        )

    def demand(self, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, what: str) -> None:
        """Refuses values of another shape or type, before there is memory for them.

        Raises:
            ImageError: with both.
        """
        channels = self.shape[2]
        fits = shape == self.shape or (channels == 1 and shape == self.shape[:2])
        if not fits or dtype.newbyteorder("=").name not in DTYPES:
            said = f"{' x '.join(map(str, shape)) or 'a scalar'} {dtype.newbyteorder('=').name}"
            needed = " x ".join(map(str, self.shape))
            message = f"{what} {said}; {needed} of {TAKEN} is needed: height x width x channels"
            raise ImageError(message, cause="shape")

    def row(self, values: Array) -> NDArray[np.float32]:
        """Values (H, W, C) to the float32 input (C, H, W).

        Raises:
            ImageError: another shape or type, or some are NaN or Inf, or become so.
        """
        self.demand(values.shape, values.dtype, what="values are")
        planes = np.moveaxis(values.reshape(self.shape), -1, 0).astype(np.float32)  # H W C -> C H W
        if bad := planes.size - int(np.count_nonzero(np.isfinite(planes))):
            raise ImageError(f"values are NaN or Inf in {bad} of {planes.size}", cause="not_finite")
        with np.errstate(over="ignore"):
            planes *= self._scale
            planes += self._offset
        if bad := planes.size - int(np.count_nonzero(np.isfinite(planes))):
            message = f"values overflow float32 once scaled, in {bad} of {planes.size}"
            raise ImageError(message, cause="not_finite")
        return np.ascontiguousarray(planes)
