"""One image through its door to the row a graph takes."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitral import decode as decodes
from vitral import spec as specs
from vitral.dynamic import Size
from vitral.errors import ImageError, InvalidArgumentError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine import image as images
from vitral_engine import raw_scale, scaled
from vitral_engine.elements import bfloat16
from vitral_engine.preprocess import Preprocessor
from vitral_engine.scaled import Extent


@dataclass(frozen=True)
class Row:
    """The input of one image, and the milliseconds it took.

    Attributes:
        array: uint8 (h, w, 3) or floats (3, h, w), as the graph takes it.
    """

    array: Array
    decode_ms: float = 0.0
    preprocess_ms: float = 0.0


_LARGE_PIXELS = 16_000_000
_large = threading.Lock()


def _room(pixels: int) -> AbstractContextManager[object]:
    """Lets large pictures through one at a time: each takes up to 20 bytes a pixel while it is decoded."""
    return _large if pixels > _LARGE_PIXELS else nullcontext()


def halved(row: NDArray[np.float32], dtype: int) -> Array:
    """The row for a graph of this input type; bfloat16 as uint16."""
    if dtype == tensor_pb2.DATA_TYPE_FLOAT32:
        return row
    return bfloat16(row) if dtype == tensor_pb2.DATA_TYPE_BFLOAT16 else row.astype(np.float16)


class Intake:
    """The three doors of one model. Stateless; any thread may call it.

    Args:
        spec: of the model.
        max_pixels: most pixels of one image.
        decode: how image files are decoded, one of `vitral.decode.MODES`.
        size: height and width of the rows, where they are not those of the preprocessing contract.

    Raises:
        InvalidArgumentError: there is no such mode.
    """

    def __init__(
        self,
        spec: pb.ModelSpec,
        *,
        max_pixels: int = images.MAX_PIXELS,
        decode: str = decodes.EXACT,
        size: Size | None = None,
    ) -> None:
        self._spec = spec
        self._fast = decodes.demand(decode) == decodes.FAST
        self._max_pixels = max_pixels
        told = spec.preprocessing
        of_rgb = spec.HasField("preprocessing") and told.contract != raw_scale.CONTRACT
        self._preprocessor = Preprocessor(told, size=size) if of_rgb else None

    def encoded(self, data: bytes, graph: pb.Graph) -> Row:
        """A row from the bytes of an image file.

        Raises:
            ImageError: the bytes cannot be decoded faithfully.
            InvalidArgumentError: the model takes `prepared` only.
        """
        preprocessor = self._require()
        rule = self._spec.preprocessing.high_depth
        opened = images.open_header(data, max_pixels=self._max_pixels, high_depth=rule)
        # The limits above are of the whole picture, whatever is decoded of it.
        pixels = opened.width * opened.height
        shrinks = self._fast and preprocessor.in_bytes
        extent = scaled.shrink(opened, preprocessor.spec, size=preprocessor.size) if shrinks else None
        with _room(pixels if extent is None else extent.pixels):
            start = perf_counter()
            rgb = images.to_rgb(opened, len(data))
            return self._resized(preprocessor, rgb, graph, extent, decode_ms=(perf_counter() - start) * 1e3)

    def pixels(self, array: NDArray[Any], graph: pb.Graph) -> Row:
        """A row from uint8 pixels (H, W, 3) of any size.

        Raises:
            ImageError: the array is something else.
            InvalidArgumentError: the model takes `prepared` only.
        """
        preprocessor = self._require()
        said = f"{' x '.join(map(str, array.shape))} {array.dtype}"
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
            hint = "; a row of its own input goes as prepared" if array.dtype == np.float32 else ""
            raise ImageError(f"pixels are {said}; H x W x 3 uint8 is needed{hint}", cause="shape")
        if max(array.shape) > images.MAX_SIDE:
            message = f"pixels are {said}, a side over the limit of {images.MAX_SIDE}"
            raise ImageError(message, cause="too_many_pixels")
        if array.shape[0] * array.shape[1] > self._max_pixels:
            message = f"pixels are {said}, over the limit of {self._max_pixels} pixels"
            raise ImageError(message, cause="too_many_pixels")
        return self._resized(preprocessor, np.ascontiguousarray(array), graph, decode_ms=0.0)

    def keeps(self, array: NDArray[Any], graph: pb.Graph) -> bool:
        """Whether `pixels` costs nothing for these: the graph takes them as they are, or they are refused."""
        if self._preprocessor is None or array.ndim != 3:
            return True
        return graph.input.folded and self._preprocessor.keeps(array.shape[0], array.shape[1])

    def prepared(self, array: NDArray[Any]) -> Row:
        """A row of the model's own float input, taken as it is.

        Raises:
            ImageError: shape or dtype are not the input's, or there is a NaN or Inf in it.
        """
        shape = specs.item_shape(specs.float_graph(self._spec).input.axes)
        if array.dtype != np.float32 or array.shape != shape:
            said, needed = (" x ".join(map(str, sizes)) for sizes in (array.shape, shape))
            raise ImageError(f"prepared is {said} {array.dtype}; {needed} float32 is needed", cause="shape")
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ImageError(f"prepared has {bad} of {array.size} values NaN or Inf", cause="not_finite")
        return Row(array)

    def _resized(
        self,
        preprocessor: Preprocessor,
        rgb: Image.Image | NDArray[np.uint8],
        graph: pb.Graph,
        extent: Extent | None = None,
        *,
        decode_ms: float,
    ) -> Row:
        start = perf_counter()
        try:
            resized = preprocessor.resize(rgb, extent)
        except (MemoryError, ValueError) as error:
            message = f"image cannot be resized: {error or 'out of memory'}"
            raise ImageError(message, cause="too_many_pixels") from None
        if graph.input.folded:
            array: Array = resized
        else:
            array = halved(preprocessor.normalise(resized), graph.input.dtype)
        return Row(array, decode_ms, (perf_counter() - start) * 1e3)

    def _require(self) -> Preprocessor:
        if self._preprocessor is None:
            message = f"model {self._spec.name} has no preprocessing: only `prepared` rows are accepted"
            raise InvalidArgumentError(message)
        return self._preprocessor
