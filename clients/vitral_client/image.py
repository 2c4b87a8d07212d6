"""What callers may hand over as an image, and through which of the three doors it goes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from vitral.errors import ImageError, InvalidArgumentError
from vitral.limits import MAX_MESSAGE_BYTES
from vitral_client.argument import kind

_ORIENTATION = 0x0112
_KINDS = "a path, bytes, a numpy array, a PIL image or Prepared"
_PNG_ALPHA_MODES = ("1", "L", "P", "RGB")


class PilImage(Protocol):
    """As much of `PIL.Image.Image` as is used; PIL need not be installed."""

    @property
    def mode(self) -> str:
        """Name of the pixel format."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""

    info: dict[Any, Any]

    def getexif(self) -> Any:
        """EXIF tags by number."""

    def save(self, fp: Any, format: str | None = None) -> None:
        """Writes a file."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """One row of the model's own input, taken as it is: no resize, no normalisation.

    Attributes:
        array: float32, (C, H, W) for models of pictures, (N, D) for models of tokens.

    Raises:
        InvalidArgumentError: another element type, or values that are not finite.
    """

    array: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Checks the array."""
        array = self.array
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.dtype.itemsize != 4:
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise InvalidArgumentError(f"Prepared takes a float32 array, not {got}")
        if array.ndim not in (2, 3) or not array.size:
            expected = "it is C x H x W, or N x D for tokens"
            raise InvalidArgumentError(
                f"Prepared array has shape {_said(array)}: {expected}, without batch axis"
            )
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise InvalidArgumentError(f"Prepared array has NaN or infinity in {bad} of {array.size} values")


@dataclass(frozen=True, eq=False)
class Pixels:
    """Decoded pixels.

    Attributes:
        array: uint8 (H, W, 3); for models that take numbers of any channels (H, W, C) or (H, W), of a type of
            `SENT`.
    """

    array: NDArray[Any]


SENT = ("uint8", "uint16", "int16", "float32")
"""Element types of arrays. int16 goes as float32, which holds it exactly."""

Image: TypeAlias = str | os.PathLike[str] | bytes | NDArray[Any] | Prepared | PilImage
"""A path, the bytes of a file, an array of pixels (see `Pixels`), a PIL image, or a prepared row."""

Content: TypeAlias = bytes | Pixels | Prepared
"""The three doors of the contract: `encoded`, `pixels`, `prepared`."""


def is_one(images: object) -> TypeGuard[Image]:
    """Whether this is one image and not a collection of them."""
    single = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Prepared)
    return isinstance(images, single) or _is_pil(images)


def listed(images: Image | Iterable[Image]) -> Iterable[Image]:
    """The images, also where there is only one.

    Raises:
        InvalidArgumentError: it is neither an image nor a collection.
    """
    if is_one(images):
        return [images]
    if not isinstance(images, Iterable):
        raise InvalidArgumentError(f"images is one or several, each {_KINDS}, not {kind(images)}")
    return images  # type: ignore[return-value]  # TypeGuard narrows one way only


def load(image: Image) -> Content:
    """What is sent of an image.

    Raises:
        InvalidArgumentError: it is nothing that can be an image: another type, dtype or shape.
        ImageError: it could be one, and cannot be read.
    """
    if isinstance(image, Prepared):
        return image
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return _checked(image)
    if isinstance(image, (str, os.PathLike)):
        return _read(image)
    if _is_pil(image):
        return _from_pil(image)
    raise InvalidArgumentError(f"an image is {_KINDS}, not {kind(image)}")


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            # One byte more than any message holds is enough to refuse it, whatever the file's size.
            return file.read(MAX_MESSAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{os.fspath(path)} cannot be read: {why}", cause="unreadable") from None


def _checked(array: NDArray[Any]) -> Pixels:
    shape = _said(array)
    if array.ndim == 4:
        raise InvalidArgumentError(f"an array of shape {shape} is a batch: pass list(array)")
    name = array.dtype.newbyteorder("=").name
    if name not in SENT:
        hint = "; wrap a row of the model's own float input in Prepared" if array.dtype.kind == "f" else ""
        message = f"an array is uint8 H x W x 3, or {', '.join(SENT)} for models of raw values"
        raise InvalidArgumentError(f"{message}, not {array.dtype} of shape {shape}{hint}")
    # How many channels a model has only the server knows; fewer or more axes no model has.
    if array.ndim not in (2, 3) or not array.size:
        raise InvalidArgumentError(f"an array is H x W x channels, not of shape {shape}")
    return Pixels(array.astype(np.float32) if name == "int16" else array)


def _from_pil(image: PilImage) -> Content:
    mode = image.mode
    try:
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = _upright(image)
        transparent = "transparency" in image.info
        if image.mode == "RGB" and not transparent:
            return Pixels(np.asarray(image))
        # Lossless and in its own mode, so that the server's one rule for modes decides. PNG alone keeps
        # a transparent colour; TIFF knows more modes.
        file = io.BytesIO()
        image.save(file, format="PNG" if transparent and image.mode in _PNG_ALPHA_MODES else "TIFF")
    except (OSError, ValueError, KeyError, SyntaxError) as error:
        raise ImageError(f"PIL image of mode {mode} cannot be sent: {error}", cause="unreadable") from None
    return file.getvalue()


def _upright(image: PilImage) -> PilImage:
    from PIL import ImageOps  # a PIL image was handed over: PIL is there

    turned: PilImage = ImageOps.exif_transpose(image)  # type: ignore[call-overload]
    return turned


def _is_pil(image: object) -> TypeGuard[PilImage]:
    return any(cls.__module__ == "PIL.Image" and cls.__name__ == "Image" for cls in type(image).__mro__)


def _said(array: NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape)) or "scalar"
