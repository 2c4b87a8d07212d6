"""The images of one verb, cut into requests of which none crosses a limit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from vitral.errors import ImageError, InvalidArgumentError, TooLargeError
from vitral.limits import MAX_ITEMS, MAX_MESSAGE_BYTES
from vitral_client.image import Content, Image, Prepared, load
from vitral_client.request import Request, Wish, content_bytes, frame, room

_FEW, _SMALL = 8, 1 << 20  # images, and bytes, that are framed in less time than a thread takes to start

Read: TypeAlias = Callable[[int, Image], Content | ImageError]
"""What is sent of the image at an index, or its error."""


def read(index: int, image: Image) -> Content | ImageError:
    """An image that cannot be read fails alone.

    Raises:
        InvalidArgumentError: it is none at all; the message names its index.
    """
    try:
        return load(image)
    except ImageError as error:
        error.index = index
        return error
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"image {index}: {error}") from None


def read_any(index: int, image: Image) -> Content | ImageError:
    """The same, but what is no image at all fails alone too."""
    try:
        return load(image)
    except ImageError as error:
        error.index = index
        return error
    except InvalidArgumentError as error:
        return ImageError(str(error), cause="argument", index=index)


@dataclass(frozen=True)
class _Entry:
    index: int
    image: Image
    content: Content | ImageError


class Parts:
    """Reads images as they are needed, at most one request ahead of what was sent.

    Args:
        images: of any number.
        start: index of the first one.
        read: how they are read.

    Attributes:
        blocks: whether reading and framing them takes long.
    """

    def __init__(self, images: Iterable[Image], *, start: int = 0, read: Read = read) -> None:
        self.blocks = not _are_at_hand(images)
        self._source: Iterator[tuple[int, Image]] = iter(enumerate(images, start))
        self._read = read
        self._ahead: deque[_Entry] = deque()
        self._taken: list[tuple[int, Image, ImageError | None]] = []

    @property
    def sendable(self) -> int:
        """Images that were read and not yet sent."""
        return sum(not isinstance(entry.content, ImageError) for entry in self._ahead)

    @property
    def contents(self) -> Iterator[Content]:
        """What is sent of them."""
        return (entry.content for entry in self._ahead if not isinstance(entry.content, ImageError))

    def fill(self) -> bool:
        """Reads until a request is full or no image is left; false when there is nothing to answer."""
        count, total = self.sendable, sum(map(_bytes, self._ahead))
        while count < MAX_ITEMS and total <= MAX_MESSAGE_BYTES:
            index, image = next(self._source, (-1, b""))
            if index < 0:
                break
            entry = _Entry(index, image, self._read(index, image))
            self._ahead.append(entry)
            count, total = count + (not isinstance(entry.content, ImageError)), total + _bytes(entry)
        return bool(self._ahead)

    def take(self, wish: Wish, most: int, *, framed: bool = True) -> Request:
        """The next request: at most `most` images. One that no request can hold fails alone.

        Args:
            wish: what is wanted of them.
            most: how many there may be.
            framed: whether its message is made now.
        """
        left = room(wish)
        contents: dict[int, Content] = {}
        failed: dict[int, ImageError] = {}
        self._taken = []
        while self._ahead:
            entry = self._ahead[0]
            if isinstance(entry.content, ImageError):
                failed[entry.index] = entry.content
            else:
                left -= _bytes(entry)
                if contents and (left < 0 or len(contents) == most):
                    break
                contents[entry.index] = entry.content
            self._ahead.popleft()
            self._taken.append((entry.index, entry.image, failed.get(entry.index)))
        if contents and left >= 0 and not framed:
            return Request(b"", tuple(contents), failed, tuple(contents.values()), wish)
        try:
            message = frame(list(contents.values()), wish) if contents else b""
        except TooLargeError as error:  # a single one: several were counted
            (index,) = contents
            failed[index] = ImageError(str(error), cause="too_large", index=index)
            return Request(b"", (), failed)
        return Request(message, tuple(contents), failed)

    def back(self) -> None:
        """Reads the images of the last request once more: it was not answered."""
        entries = [_Entry(i, image, failed or self._read(i, image)) for i, image, failed in self._taken]
        self._ahead.extendleft(reversed(entries))


def _are_at_hand(images: Iterable[Image]) -> bool:
    """Whether these are a few images in memory: to hand them to another thread would take longer."""
    if not isinstance(images, list) or len(images) > _FEW:
        return False
    return all(map(is_at_hand, images)) and sum(_size(image) or 0 for image in images) <= _SMALL


def is_at_hand(image: Image) -> bool:
    """Whether this is a small image in memory, which takes no file to be read nor a picture to be encoded."""
    size = _size(image)
    return size is not None and size <= _SMALL


def _size(image: Image) -> int | None:
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, Prepared):
        return image.array.nbytes
    return image.nbytes if isinstance(image, np.ndarray) else None


def _bytes(entry: _Entry) -> int:
    return 0 if isinstance(entry.content, ImageError) else content_bytes(entry.content)
